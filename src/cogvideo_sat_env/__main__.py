"""`python -m cogvideo_sat_env`: the same program as scripts/satenv, without its private tool venv."""

from cogvideo_sat_env.cli import main

main()
