"""Building the packages of recipe/ into an indexed local channel."""
