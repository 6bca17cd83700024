"""Jobs for Slurm: scripts that are the user's, rendered from a site file and what is to run."""
