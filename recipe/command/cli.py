"""The command cogvideo-sat-env of the metapackage: the doctor of the environment that it is installed in, and more."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cogvideo_sat_env.doctor.argparse_cli import main

sys.exit(main(sys.argv[1:]))
