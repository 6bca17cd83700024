"""The recipe -> a local channel, the same bytes every time."""
