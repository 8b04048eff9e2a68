"""Workers as SLURM jobs, by dask-jobqueue: the scheduler runs on this machine, a job has one GPU or some cores."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_bytes
from distributed import NannyPlugin, WorkerPlugin

from rephase.cluster.access import TOKEN, GatedScheduler, dashboard_token, run_security
from rephase.cluster.connect import ClusterRequest, Connection, open_client, wait_for_workers
from rephase.cluster.errors import ClusterError
from rephase.cluster.interrupts import interrupts_held
from rephase.cluster.local import CPU_THREADS, GPU_THREADS, STRIKES, WORKER_ENVIRON, free_address
from rephase.config import Count, Positive, Whole, read_config
from rephase.text import one_line

if TYPE_CHECKING:
    from rephase.cluster.slurm.jobs import Jobs  # needs dask-jobqueue

_GATED = ("--worker-class", "rephase.cluster.access.GatedWorker")
_WAIT = "trap : TERM  # at SIGTERM the shell waits for its worker, which exits gracefully"


@dataclass(frozen=True)
class SlurmConfig:
    """The jobs that `slurm:CONFIG.toml` starts; the keys of the file."""

    memory: str
    """Memory of a job, such as `32GB`."""
    walltime: str
    """Time limit of a job, `HH:MM:SS` or `D-HH:MM:SS`."""
    leave: Count = 300
    """Seconds before the time limit at which a worker leaves; its volumes are reassigned and not counted as failed."""
    cpus: Count = 4
    """Cores of a job; one worker process per core, unless the job has a GPU."""
    gpu: str = ""
    """`1` or `TYPE:1` for `--gres=gpu:...`: one worker process with this GPU; none if empty."""
    jobs: Count = 1
    """Largest number of jobs at once; `--workers` overrides it."""
    minimum: Whole = 1
    """Jobs to keep when little work remains; equal to `jobs` for a fixed number."""
    partition: str = ""
    """Partition of the jobs."""
    account: str = ""
    """Account of the jobs."""
    directives: tuple[str, ...] = ()
    """Further `#SBATCH` options, such as `--constraint=a100`."""
    container: str = ""
    """Put before the Python command, such as `apptainer exec --nv image.sif`."""
    python: str = ""
    """Python of the workers; that of the submitting process if empty."""
    prologue: tuple[str, ...] = ()
    """Lines of the job script before the worker, such as `module load cuda`."""
    interface: str = ""
    """Network interface by which jobs reach the scheduler, such as `ib0`."""
    host: str = ""
    """Address of the scheduler for the jobs, in place of `interface`."""
    shared_folder: str = ""
    """Folder that the jobs see, for the TLS keys of a run; `~/.cache/rephase` if empty."""
    log_folder: str = ""
    """Output of the jobs."""
    local_folder: str = "/tmp"  # noqa: S108
    """Temporary files of the workers."""
    wait: Positive = 86400.0
    """Seconds to wait for the first worker."""

    def __post_init__(self) -> None:
        """Check values that SLURM or Dask would only reject later."""
        try:
            enough = parse_bytes(self.memory) >= 10**6
        except ValueError:
            enough = False
        if not enough:
            raise ClusterError(f"memory is {self.memory!r}; expected a size such as 32GB")
        if self.seconds <= 2 * self.leave:
            raise ClusterError(f"walltime is {self.walltime}; expected more than twice `leave`, {self.leave} s")
        if self.gpu and re.fullmatch(r"([A-Za-z0-9_.-]+:)?1", self.gpu) is None:
            raise ClusterError(f"gpu is {self.gpu!r}; expected 1 or TYPE:1, one GPU per job; set `jobs` for more")
        if self.minimum > self.jobs:
            raise ClusterError(f"minimum is {self.minimum}; expected at most jobs, {self.jobs}")

    @property
    def seconds(self) -> int:
        """The walltime in seconds."""
        match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", self.walltime)
        if match is None:
            raise ClusterError(f"walltime is {self.walltime!r}; expected HH:MM:SS or D-HH:MM:SS")
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def processes(self) -> int:
        """Number of worker processes per job."""
        return 1 if self.gpu else self.cpus


def read_slurm(spec: str) -> SlurmConfig:
    """Read the file of `slurm:CONFIG.toml`; raises ClusterError."""
    return read_config(spec.removeprefix("slurm:"), SlurmConfig, ClusterError)


def check(spec: str) -> None:
    """Check the file; raises ClusterError."""
    read_slurm(spec)


def job_script(spec: str) -> str:
    """Return the job script, for a scheduler whose address is not known yet."""
    from rephase.cluster.slurm.jobs import Job

    job: Any = Job(scheduler="tls://SCHEDULER:PORT", name="rephase", **job_options(read_slurm(spec)))
    return str(job.job_script())


@contextmanager
def connect(spec: str, request: ClusterRequest) -> Iterator[Connection]:
    """Start a scheduler on this machine, submit jobs, and wait for the first worker; raises ClusterError."""
    config = read_slurm(spec)
    with start_slurm(config, request) as cluster, open_client(cluster) as client:
        for plugin in graceful_exit_plugins():
            client.register_plugin(plugin)
        request.say(f"jobs are submitted; waiting for the first worker, at most {config.wait:g} s; Ctrl-C stops it")
        wait_for_workers(client, 1, config.wait, spec, cluster.check)
        yield Connection(client, workerless_s=config.wait, check=cluster.check, token=cluster.token)


def job_options(config: SlurmConfig) -> dict[str, Any]:
    """Return the arguments of `dask_jobqueue.SLURMCluster`; they override the user's own jobqueue settings."""
    python = config.python or sys.executable
    threads = GPU_THREADS if config.gpu else CPU_THREADS
    exports = [f"export {name}={value}" for name, value in WORKER_ENVIRON.items()]
    # Dask's own folder has one name for all users of a node, and workers import from it
    own_folder = [
        f'export REPHASE_LOCAL="$(mktemp -d "{config.local_folder}/rephase-XXXXXXXX")"',
        "trap 'rm -rf \"$REPHASE_LOCAL\"' EXIT",
    ]
    gres = [f"--gres=gpu:{config.gpu}"] if config.gpu else []
    lifetime = [
        "--lifetime",
        f"{config.seconds - config.leave}s",
        "--lifetime-stagger",
        f"{min(config.leave // 5, 60)}s",
    ]
    return {
        "queue": config.partition or None,
        "account": config.account or None,
        "walltime": config.walltime,
        "job_cpu": config.cpus,
        "cores": threads * config.processes,
        "processes": config.processes,
        "memory": config.memory,
        "job_name": "rephase",
        "python": f"{config.container} {python} -P".strip(),
        "job_extra_directives": [*gres, *config.directives],
        "job_script_prologue": [_WAIT, *exports, *own_folder, *config.prologue],
        "worker_extra_args": [*lifetime, "--dashboard-address", "127.0.0.1:0", *_GATED],
        "interface": config.interface or None,
        "log_directory": config.log_folder or None,
        "local_directory": "$REPHASE_LOCAL",
        "death_timeout": 300,
        "shebang": "#!/usr/bin/env bash",
        "config_name": "slurm",
    }


def graceful_exit_plugins() -> list[WorkerPlugin | NannyPlugin]:
    """Return plugins by which workers exit gracefully when SLURM ends their job, so that no task is counted as failed.

    SLURM sends SIGTERM to every process of a job, and SIGKILL 30 s later (its KillWait). By default Dask's
    nanny then stops its worker at once, which counts as the death of the worker. The classes are local, so they are
    pickled by value: a worker without this package accepts them, and is refused later with a clear message.
    """

    class Leave(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:  # noqa: ANN401
            def leave() -> None:
                self.leaving = asyncio.ensure_future(worker.close_gracefully(reason="the job ends"))

            if worker.nanny:
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)

    class Wait(NannyPlugin):  # type: ignore[misc]
        def setup(self, nanny: Any) -> None:  # noqa: ANN401
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    return [Leave(), Wait()]


@contextmanager
def start_slurm(config: SlurmConfig, request: ClusterRequest) -> Iterator[Jobs]:
    """Start a scheduler on this machine and submit jobs; all traffic is encrypted with keys of this run.

    Raises
    ------
    ClusterError
        If SLURM does not accept the job.
    """
    if shutil.which("sbatch") is None:
        raise ClusterError("--cluster slurm: found no sbatch; expected a machine that submits jobs; start it on one")
    from rephase.cluster.slurm.jobs import Jobs

    folder = Path(config.shared_folder).expanduser() if config.shared_folder else Path.home() / ".cache" / "rephase"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = dashboard_token()
    scheduler = {"dashboard_address": free_address(request.dashboard_address)}
    if config.host:
        scheduler["host"] = config.host
    most = request.num_workers or config.jobs
    with dask.config.set({"distributed.scheduler.allowed-failures": STRIKES - 2, TOKEN: token}):
        try:
            with interrupts_held():
                cluster = Jobs(
                    name="rephase",
                    silence_logs=logging.CRITICAL,
                    security=run_security(),
                    scheduler_cls=GatedScheduler,
                    protocol="tls://",
                    shared_temp_directory=str(folder),
                    scheduler_options=scheduler,
                    **job_options(config),
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"--cluster slurm: cannot start a scheduler ({one_line(error)}); expected an address that jobs "
                "reach; set `interface` or `host` in the file"
            ) from None
        cluster.token = token
        with cluster:
            try:
                with interrupts_held():
                    cluster.submit(min(config.minimum, most), most)
                yield cluster
            finally:
                with interrupts_held():
                    cluster.scale(0)
