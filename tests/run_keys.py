"""The keys of a cluster that a test has started, as Dask's configuration, for `--cluster tls://...`."""

from __future__ import annotations

import dask
from distributed import SpecCluster

from rephase.cluster.access import run_config


def keys_of(cluster: SpecCluster) -> dask.config.set:
    """A context in which this process may join the cluster, and others without encryption too."""
    return dask.config.set(
        {**run_config(cluster.security, cluster.token), "distributed.comm.require-encryption": False}
    )
