"""The doctor: proves that an environment can do what a CogVideoX-SAT run does, and says what to type when it can't.

Needs only the standard library and PyYAML, so that it runs in the tool's own environment and inside the examined one.
"""

from __future__ import annotations

from cogvideo_sat_env.doctor.catalogue import list_checks
from cogvideo_sat_env.doctor.check_result import LEVELS, CheckResult
from cogvideo_sat_env.doctor.doctor_report import DoctorReport
from cogvideo_sat_env.doctor.runner import Conditions, run

__all__ = ["LEVELS", "CheckResult", "Conditions", "DoctorReport", "list_checks", "run"]
