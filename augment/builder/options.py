"""What a build may be told, with the defaults of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rephase.diffusion.phases import PHASES, learned_phases
from rephase.errors import RequestError
from rephase.manifests.manifest import UNDERSTOOD
from rephase.pipeline.magnitude import NegativeRule

MAX_TIME_LIMIT_S = 1e6


def same_phase(phase: str) -> str:
    """Say why there are no replicas with such a phase."""
    return f"--phase {phase} gives every replica the same phase; expected 1; take a phase that is drawn"


@dataclass(frozen=True)
class BuildOptions:
    """The options of `rephase build` and `rephase plan`.

    Attributes
    ----------
    phase
        One of `PHASES`; None takes the shipped weights where there are some, else `smooth`.
    checkpoint
        For a learned phase: weights.
    steps
        For `diffusion`: network evaluations a slice.
    seed
        Of the corpus; another one gives other phase.
    replicas
        Volumes made of each row that does not say itself.
    batch_size
        Slices handed to the generator at once; does not change a byte.
    negative
        What to do with negative magnitude.
    keep_columns
        Columns that the format does not know, to be copied into the receipts.
    cluster, num_workers, memory_limit, dashboard_address
        As in `rephase.cluster.connect`; bytes per worker.
    volume_limit
        Bytes that one volume's float32 magnitude may take; None derives it from a worker's memory.
    time_limit
        Seconds that one volume may take; None derives it from its slices (`rephase.pipeline.timeout`).
    retry_failed
        Try the volumes again that failed in an earlier run.
    overwrite
        Make volumes again that were committed from other bytes or with another recipe.
    allow_mixed_devices
        Let workers differ in what may change the last bits.
    break_lease
        Take over the lease of a builder that gives no sign of life.
    keep_open
        Keep the cluster and its dashboard after the build.
    performance_report
        File for Dask's own report of the run, HTML.
    """

    phase: str | None = None
    checkpoint: Path | None = None
    steps: int | None = None
    seed: int = 0
    replicas: int = 1
    batch_size: int | None = None
    negative: NegativeRule = "refuse"
    keep_columns: tuple[str, ...] = ()
    cluster: str = "local"
    num_workers: int | None = None
    memory_limit: int | None = None
    dashboard_address: str = "127.0.0.1:8787"
    volume_limit: int | None = None
    time_limit: float | None = None
    retry_failed: bool = False
    overwrite: bool = False
    allow_mixed_devices: bool = False
    break_lease: bool = False
    keep_open: bool = False
    performance_report: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself before anything starts."""
        if self.phase is not None and self.phase not in PHASES:
            raise RequestError(f"--phase {self.phase}: expected one of {', '.join(PHASES)}")
        any_steps = tuple(name for name, phase in PHASES.items() if phase.any_steps)
        takes = (("--checkpoint", self.checkpoint, learned_phases()), ("--steps", self.steps, any_steps))
        for name, value, phases in takes:
            if value is not None and self.phase is not None and self.phase not in phases:
                known = " or ".join(phases)
                raise RequestError(f"{name} goes with --phase {known}, not with {self.phase}; leave one out")
        understood = [name for name in self.keep_columns if name in UNDERSTOOD and name != "source"]
        if understood:
            raise RequestError(
                f"--keep-columns {understood[0]}: is a column with a meaning of its own; expected others; what a "
                "corpus may have of it is there already"
            )
        if self.phase is not None and not PHASES[self.phase].varies and self.replicas > 1:
            raise RequestError(f"--replicas {self.replicas}: {same_phase(self.phase)}")
        if self.time_limit is not None and not 0 < self.time_limit < MAX_TIME_LIMIT_S:
            raise RequestError(
                f"--time-limit {self.time_limit:g}: expected seconds, more than 0 and at most {MAX_TIME_LIMIT_S:g}"
            )
        counts = {
            "--replicas": self.replicas, "--steps": self.steps, "--batch-size": self.batch_size,
            "--workers": self.num_workers, "--memory-limit": self.memory_limit, "--volume-limit": self.volume_limit,
        }  # fmt: skip
        for name, count in counts.items():
            if count is not None and count < 1:
                raise RequestError(f"{name} {count}: expected 1 or more")
