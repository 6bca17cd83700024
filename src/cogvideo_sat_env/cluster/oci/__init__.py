"""An environment as a container image: an OCI image layout, written without Docker."""
