"""A channel of generated packages, from which releases and images are made in moments."""

from cluster.admin import apps, small_channel, warm_cache
from install.conftest import Site, sample, site

__all__ = ["Site", "apps", "sample", "site", "small_channel", "warm_cache"]
