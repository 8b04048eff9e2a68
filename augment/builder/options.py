"""The options of a build: their names, defaults and help, for the command line and for Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from rephase.cluster.kinds import CLUSTERS
from rephase.diffusion.phases import PHASES, learned_phases
from rephase.diffusion.shipped import WEIGHTS, find_checkpoint
from rephase.errors import RequestError
from rephase.facts import SPLITS
from rephase.manifests.record import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from rephase.manifests.where import parse_where
from rephase.scanner.acquisition import PRESETS, parse_acquisition, parse_mask
from rephase.scanner.arrays import parse_coils, parse_noise
from rephase.text import parse_count, parse_names, parse_size

if TYPE_CHECKING:  # imports NumPy, which `--help` must not
    from rephase.pipeline.magnitude import NegativeRule

MAX_TIME_LIMIT_S = 1e6

Group = Literal["phase", "scanner", "source", "execution", "run"]
"""Heading of an option in `--help`. `rephase plan` has all but `run`, `rephase repair` only `execution` and `run`."""

EXAM_COLUMNS = ("subject_id", "series", "source")
"""Columns with a meaning of their own that may name the exam of a row."""
ON_CRIME = ("warn", "crop", "refuse")
_NEGATIVE: tuple[NegativeRule, ...] = ("refuse", "clip")
STORAGES = ("image+maps", "kspace")
_SEVERAL = ("split", "keep_columns")
_NAMES = ", ".join(WEIGHTS)


@dataclass(frozen=True)
class Argument:
    """The command-line argument of a build option.

    Attributes
    ----------
    group
        Heading of the argument in `--help`.
    help
        One line; the default is in it.
    metavar
        Placeholder of its value; None for a flag.
    parse
        Converts text to the value, or raises ValueError.
    choices
        Permitted values, empty for any.
    """

    group: Group
    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] = str
    choices: Collection[str] = ()


def _argument(
    group: Group,
    text: str,
    metavar: str | None = None,
    parse: Callable[[str], Any] = str,
    choices: Collection[str] = (),
) -> Mapping[str, Argument]:
    return {"argument": Argument(group, text, metavar, parse, choices)}


def _acquisition_text(text: str) -> str:
    parse_acquisition(text)
    return text


def _mask_text(text: str) -> str:
    return parse_mask(text).text


@dataclass(frozen=True)
class BuildOptions:
    """The options of `rephase build`, `plan` and `repair`; `ARGUMENTS` explains each.

    `phase`, `checkpoint`, `steps`, `seed`, `share_field_by`, the options of the scanner (`coils`, `noise`,
    `noise_covariance`, `target`, `prescan`, `acquisition`, `mask`, `storage`), `negative`, `on_crime` and
    `keep_columns` change the bytes of a corpus, and `replicas`, `split` and `where` its volumes. The others change
    neither.

    Raises
    ------
    RequestError
        If a value is not allowed or two contradict each other.
    """

    phase: str | None = field(
        default=None,
        metadata=_argument(
            "phase",
            "one of those listed above (default: diffusion if its weights are installed or given, else smooth)",
            "NAME",
            choices=PHASES,
        ),
    )
    checkpoint: Path | None = field(
        default=None,
        metadata=_argument(
            "phase",
            f"weights of a learned phase: a file, or one of {_NAMES} (default: those of the phase)",
            "C",
            find_checkpoint,
        ),
    )
    steps: int | None = field(
        default=None,
        metadata=_argument(
            "phase",
            "network evaluations (NFE) per slice, for --phase diffusion (default: those of the weights)",
            "N",
            parse_count,
        ),
    )
    seed: int = field(
        default=0,
        metadata=_argument("phase", "random seed; a different seed samples a different phase (default: 0)", "S", int),
    )
    replicas: int = field(
        default=1,
        metadata=_argument("phase", "replicas per row, unless the manifest sets them (default: 1)", "N", parse_count),
    )
    share_field_by: str | None = field(
        default=None,
        metadata=_argument(
            "phase",
            "manifest column that names the exam of a row, such as subject_id: rows of one exam share field, coil "
            "phase, and global and linear phase, so that echoes and frames of a series agree (default: no sharing)",
            "COLUMN",
        ),
    )
    negative: NegativeRule = field(
        default="refuse",
        metadata=_argument(
            "source",
            "negative magnitude: refuse, or clip values above -5 %% of the maximum to zero (default: refuse)",
            "RULE",
            choices=_NEGATIVE,
        ),
    )
    on_crime: str | None = field(
        default=None,
        metadata=_argument(
            "source",
            "if the audit finds processing: warn, a flag in the receipt; crop k-space back to the acquired matrix if "
            "it was zero-filled; or refuse the volume (default: warn)",
            "RULE",
            choices=ON_CRIME,
        ),
    )
    coils: str | None = field(
        default=None,
        metadata=_argument(
            "scanner",
            "multi-coil k-space: a number of coils, an array such as brain16, or bank:FILE (default: single-coil)",
            "N",
            parse_coils,
        ),
    )
    noise: str | None = field(
        default=None,
        metadata=_argument(
            "scanner",
            "add complex noise: SNR, the median of the object over the deviation; measured, as in the source's air; or "
            "off (default: off)",
            "SNR",
            parse_noise,
        ),
    )
    noise_covariance: str | tuple[object, ...] | None = field(
        default=None,
        metadata=_argument(
            "scanner",
            "of the coils' noise: identity, head8 as measured in heads, or a .npy file (default: identity)",
            "C",
        ),
    )
    target: str | None = field(
        default=None,
        metadata=_argument(
            "scanner", "target of noisy k-space: clean or noisy (default: clean)", "T", choices=("clean", "noisy")
        ),
    )
    prescan: int | None = field(
        default=None,
        metadata=_argument("scanner", "add N samples per coil of noise alone (default: none)", "N", parse_count),
    )
    acquisition: str | None = field(
        default=None,
        metadata=_argument(
            "scanner",
            f"sampled part of k-space: {', '.join(PRESETS)}, or settings such as oversampling=2,partial-fourier=6/8 "
            "(default: full)",
            "A",
            _acquisition_text,
        ),
    )
    mask: str | None = field(
        default=None,
        metadata=_argument(
            "scanner",
            "undersample volumes of the split test, or without a split: KIND:R, such as equispaced:4 or random:8 "
            "(default: none)",
            "KIND:R",
            _mask_text,
        ),
    )
    storage: str | None = field(
        default=None,
        metadata=_argument(
            "scanner",
            "of multi-coil data: image+maps, expanded when it is read, or kspace (default: image+maps)",
            "FORM",
            choices=STORAGES,
        ),
    )
    split: tuple[str, ...] = field(
        default=(),
        metadata=_argument(
            "source", "only the rows of these splits: some of train, val, test (default: all)", "A,B", parse_names
        ),
    )
    where: str | None = field(
        default=None,
        metadata=_argument(
            "source",
            "only the rows whose cells meet conditions, such as 'contrast=T1,T2 and field_t>=1.5' (default: all)",
            "CONDITIONS",
        ),
    )
    keep_columns: tuple[str, ...] = field(
        default=(),
        metadata=_argument(
            "source", "additional manifest columns to copy into the corpus (default: none)", "A,B", parse_names
        ),
    )
    cluster: str = field(
        default="local",
        metadata=_argument(
            "execution",
            f"where to run: {', '.join(form for kind in CLUSTERS.values() for form in kind.forms)} (default: local)",
            "SPEC",
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_argument(
            "execution",
            "worker processes (default: one per GPU, else one per core); with a running scheduler, those to await",
            "N",
            parse_count,
        ),
    )
    batch_size: int | None = field(
        default=None,
        metadata=_argument(
            "execution", "slices per call of the generator; does not change the bytes of the corpus", "N", parse_count
        ),
    )
    memory_limit: int | None = field(
        default=None,
        metadata=_argument(
            "execution",
            "memory of each local worker, such as 8GB; limits the size of a volume (default: a share of the machine's)",
            "SIZE",
            parse_size,
        ),
    )
    time_limit: float | None = field(
        default=None,
        metadata=_argument(
            "execution",
            "limit for each volume; one that exceeds it twice is marked failed (default: 30 minutes to read it, then "
            "10 minutes and 5 s per slice and network evaluation)",
            "SECONDS",
            float,
        ),
    )
    overwrite: bool = field(
        default=False, metadata=_argument("source", "rebuild volumes whose source, row or options changed")
    )
    retry_failed: bool = field(
        default=False, metadata=_argument("run", "retry the volumes that failed in an earlier run")
    )
    allow_mixed_devices: bool = field(
        default=False,
        metadata=_argument("run", "allow workers that differ in device, instruction set or version of torch"),
    )
    log_paths: bool = field(
        default=False,
        metadata=_argument(
            "run", "log the paths of failed volumes, which are logged by their row in the manifest otherwise"
        ),
    )
    insecure: bool = field(
        default=False,
        metadata=_argument(
            "run", "accept plain TCP to a scheduler on another machine, where anyone who reaches it runs code"
        ),
    )
    break_lease: bool = field(default=False, metadata=_argument("run", "take over an expired lease"))
    dashboard_address: str = field(
        default="127.0.0.1:8787",
        metadata=_argument(
            "run",
            "address of the dashboard; if the port is in use, another is chosen (default: 127.0.0.1:8787)",
            "HOST:PORT",
        ),
    )

    def __post_init__(self) -> None:
        """Check the values before any process starts."""
        if self.phase is not None and self.phase not in PHASES:
            raise RequestError(f"--phase {self.phase}: not a phase; expected one of {', '.join(PHASES)}")
        if self.negative not in _NEGATIVE:
            raise RequestError(f"--negative {self.negative}: not a rule; expected one of {', '.join(_NEGATIVE)}")
        any_steps = tuple(name for name, phase in PHASES.items() if phase.any_steps)
        takes = (("--checkpoint", self.checkpoint, learned_phases()), ("--steps", self.steps, any_steps))
        for name, value, phases in takes:
            if value is not None and self.phase is not None and self.phase not in phases:
                known = " or ".join(phases)
                raise RequestError(f"{name} requires --phase {known}; found --phase {self.phase}; omit one of the two")
        if self.on_crime not in (None, *ON_CRIME):
            raise RequestError(f"--on-crime {self.on_crime}: not a rule; expected one of {', '.join(ON_CRIME)}")
        for name in self.keep_columns:
            if name in REQUIRED_COLUMNS + OPTIONAL_COLUMNS and name != "source":
                raise RequestError(
                    f"--keep-columns {name}: this column has a meaning of its own; expected additional columns; omit it"
                )
        if self.share_field_by in REQUIRED_COLUMNS + OPTIONAL_COLUMNS and self.share_field_by not in EXAM_COLUMNS:
            raise RequestError(
                f"--share-field-by {self.share_field_by}: this column has a meaning of its own; expected "
                f"{', '.join(EXAM_COLUMNS)} or an additional column that names the exam of each row"
            )
        if self.storage is not None and self.coils is None:
            raise RequestError(f"--storage {self.storage}: requires --coils; omit it for single-coil k-space")
        if self.storage is not None and self.storage not in STORAGES:
            raise RequestError(f"--storage {self.storage}: expected one of {', '.join(STORAGES)}")
        needs_noise = {"noise_covariance": self.noise_covariance, "target": self.target, "prescan": self.prescan}
        for name, given in needs_noise.items():
            if given is not None and self.noise in (None, "off"):
                raise RequestError(f"{flag(name)} requires --noise SNR or measured; omit it, or ask for noise")
        if self.noise_covariance is not None and self.coils is None:
            raise RequestError("--noise-covariance requires --coils; omit it for single-coil k-space")
        if self.target not in (None, "clean", "noisy"):
            raise RequestError(f"--target {self.target}: expected clean or noisy")
        if self.noise is not None:
            try:
                parse_noise(self.noise)
            except ValueError as error:
                raise RequestError(f"--noise {error}") from None
        checked: tuple[tuple[str, str | None, Callable[[str], object]], ...] = (
            ("--coils", self.coils, parse_coils),
            ("--acquisition", self.acquisition, parse_acquisition),
            ("--mask", self.mask, parse_mask),
        )
        for name, text, parse in checked:
            if text is not None:
                try:
                    parse(text)
                except ValueError as error:
                    raise RequestError(f"{name} {error}") from None
        if wrong := sorted(set(self.split) - set(SPLITS)):
            raise RequestError(f"--split {wrong[0]}: expected some of {', '.join(SPLITS)}")
        if self.where is not None:
            try:
                parse_where(self.where)
            except ValueError as error:
                raise RequestError(f"--where: {error}") from None
        if self.phase is not None and not PHASES[self.phase].varies and self.replicas > 1:
            raise RequestError(f"--replicas {self.replicas}: {equal_replicas(self.phase)}")
        if self.time_limit is not None and not 0 < self.time_limit < MAX_TIME_LIMIT_S:
            raise RequestError(
                f"--time-limit {self.time_limit:g}: expected seconds, more than 0 and less than {MAX_TIME_LIMIT_S:g}"
            )
        for name in ("replicas", "steps", "prescan", "batch_size", "workers", "memory_limit"):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or count < 1):
                raise RequestError(f"{flag(name)} {count}: expected a whole number of 1 or more")

    @property
    def read_columns(self) -> tuple[str, ...]:
        """Additional manifest columns that a build reads; see `read_columns`."""
        return read_columns(self.keep_columns, self.share_field_by)

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> Self:
        """Return options from values of Python or TOML; texts, paths and numbers are parsed as on the command line.

        Raises
        ------
        RequestError
            If a value cannot be parsed or is not allowed.
        """
        return cls(**{name: _parsed(name, value) for name, value in values.items()})


ARGUMENTS: Mapping[str, Argument] = {one.name: one.metadata["argument"] for one in fields(BuildOptions)}
"""The command-line argument of every build option, by the option's name."""


def flag(name: str) -> str:
    """Return the command-line spelling of an option's name."""
    return f"--{name.replace('_', '-')}"


def _parsed(name: str, value: object) -> Any:  # noqa: ANN401 - of any option
    """Return the value of an option from one of Python or TOML, such as `coils = 8` for the text 8."""
    if value is None:
        return None
    is_flag = ARGUMENTS[name].metavar is None
    if is_flag == isinstance(value, bool):
        if is_flag:
            return value
        if isinstance(value, list | tuple) and (name in _SEVERAL or name == "noise_covariance"):
            if name == "noise_covariance" or all(isinstance(one, str) for one in value):
                return tuple(value)
        elif isinstance(value, str | os.PathLike | Real):
            try:
                text = os.fspath(value) if isinstance(value, str | os.PathLike) else str(value)
                text = str(int(value)) if isinstance(value, float) and value.is_integer() else text
                return ARGUMENTS[name].parse(text)
            except ValueError as error:
                raise RequestError(f"{flag(name)}: {error}") from None
    expected = "true or false" if is_flag else "one text or number" if name not in _SEVERAL else "a list of texts"
    raise RequestError(f"{flag(name)}: found {value!r}; expected {expected}; correct it")


def read_columns(keep_columns: Iterable[str], share_field_by: str | None) -> tuple[str, ...]:
    """Return the additional manifest columns that a build reads: those to copy, and that which names the exam."""
    shared = () if share_field_by in (None, "subject_id", "series") else (share_field_by,)
    return tuple(sorted({*keep_columns, *(name for name in shared if name)}))


def equal_replicas(phase: str) -> str:
    """Format why a phase that does not vary has no replicas."""
    return f"--phase {phase} is the same in every replica; expected one replica; use a sampled phase"
