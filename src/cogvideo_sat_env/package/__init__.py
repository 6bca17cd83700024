"""The conda packages of recipe/: built into a channel, published, locked."""
