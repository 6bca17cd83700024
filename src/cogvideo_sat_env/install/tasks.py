"""The tasks of workers.py by name."""

from __future__ import annotations

from cogvideo_sat_env.install.bytecode_files import keep_bytecode, link_bytecode
from cogvideo_sat_env.install.package_files import verify
from cogvideo_sat_env.install.prefix_record import complete_record

TASKS = {task.__name__: task for task in (verify, link_bytecode, keep_bytecode, complete_record)}
