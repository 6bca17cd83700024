"""Probe code: runs in the environment's Python, one process a check. Standard library and that environment only.

The modules here import nothing but the standard library (and each other) at their top, so that tests can read them
anywhere; what a check needs is imported inside its function, so that a missing package is that check's finding.
"""
