"""From environment.yml to verified locks: made by conda-lock, rendered, checked."""
