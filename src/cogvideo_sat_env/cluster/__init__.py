"""Releases, modules, one-file images and Slurm jobs: the environment on a cluster."""
