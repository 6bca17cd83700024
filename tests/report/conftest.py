"""Environments for the reports' tests: made from the generated channel, as those of install/."""

from install.conftest import sample, site

__all__ = ["sample", "site"]
