"""A channel of generated packages, from which releases and images are made in moments."""

from install.conftest import Site, sample, site

__all__ = ["Site", "sample", "site"]
