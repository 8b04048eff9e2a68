"""Build several corpora, one after the other, on the workers of one local cluster, which start once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import check_exams, check_replicas, check_twins
from rephase.builder.run import check_request, run_tasks
from rephase.builder.summary import BuildSummary
from rephase.builder.workers import PRELOAD
from rephase.cluster.connect import ClusterRequest, Connection, connect
from rephase.corpus.lease import Lease
from rephase.manifests.manifest import Manifest
from rephase.pipeline.task import task_list


@contextmanager
def one_cluster(workers: int | None = None) -> Iterator[SharedCluster]:
    """Start a local cluster for several builds, with one worker per core if `workers` is None."""
    with connect("local", ClusterRequest(num_workers=workers, preload=PRELOAD)) as connection:
        yield SharedCluster(connection)


@dataclass(frozen=True)
class SharedCluster:
    """A cluster that is there already: a `rephase.cluster.kinds.ClusterModule` that joins it."""

    connection: Connection

    def build(self, manifest: Manifest, root: str, options: BuildOptions) -> BuildSummary:
        """Build or resume a corpus in silence; see `rephase.builder.run.build`."""
        resolved = replace(check_request(root, options), cluster=self)
        check_replicas(manifest, options.phase)
        check_exams(manifest, options.share_field_by)
        tasks = task_list(manifest, options.replicas, options.retry_failed)
        check_twins(root, tasks.names())
        with Lease(root, options.break_lease) as lease:
            return run_tasks(tasks, resolved, lease, _nothing, progress=False)

    def check(self, spec: str) -> None:
        """Accept any specification."""

    @contextmanager
    def connect(self, spec: str, request: ClusterRequest) -> Iterator[Connection]:
        """Yield the connection, which outlives the build."""
        yield self.connection

    def job_script(self, spec: str) -> str | None:
        """Return None: no jobs are submitted."""
        return None


def _nothing(line: str) -> None:
    pass
