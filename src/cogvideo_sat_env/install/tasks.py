"""The tasks of workers.py by name."""

from __future__ import annotations

from cogvideo_sat_env.install.bytecode_files import keep_bytecode, link_bytecode
from cogvideo_sat_env.install.hardlink import complete_record, link, verify

TASKS = {task.__name__: task for task in (verify, link, link_bytecode, keep_bytecode, complete_record)}
