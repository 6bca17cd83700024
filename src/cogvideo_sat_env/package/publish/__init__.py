"""A built channel -> a folder, a bucket or a package server."""
