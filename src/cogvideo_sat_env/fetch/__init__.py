"""Files from channels, mirrors, indexes and folders: parallel, resumed, retried, proven before they get their name."""
