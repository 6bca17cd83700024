"""create, update and undo: a source chosen, a prefix installed, its outcome reported."""
