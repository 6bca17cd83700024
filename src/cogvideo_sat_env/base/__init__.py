"""What every other folder stands on: errors, paths, atomic writes, hashing, progress, YAML, the artefact types."""
