"""The fixtures of the tests of the whole daemon."""

from tests.bed import cluster, cluster_keeper, site, site_keeper, unguarded, unguarded_keeper

__all__ = ["cluster", "cluster_keeper", "site", "site_keeper", "unguarded", "unguarded_keeper"]
