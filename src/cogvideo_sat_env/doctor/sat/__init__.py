"""The user's own run: their checkout of CogVideo's sat/, their configs, weights and data, before hours are lost.

Everything here reads text and file headers with the standard library and PyYAML; what has to run in the environment is
in doctor/checks/sat.py.
"""
