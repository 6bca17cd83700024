"""Where the bytes come from: the lock's channels, a mirror of them, or a package index's wheels."""
