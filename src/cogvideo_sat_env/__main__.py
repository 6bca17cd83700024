"""`python -m cogvideo_sat_env`: the same program as scripts/satenv, without its private tool venv."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Until it is loaded, Ctrl-C ends the process by the signal itself, without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cogvideo_sat_env.cli import main as run

    run()


if __name__ == "__main__":
    main()
