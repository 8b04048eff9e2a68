"""The settings of an evaluation: fixed before the run, in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rephase.errors import RequestError
from rephase.evaluation.metrics import METRIC_NAMES

DEFAULT = Path(__file__).parent / "evaluation.toml"


@dataclass(frozen=True)
class ClassifierConfig:
    """Architecture and budget of the real-versus-generated classifier.

    `patch` pixels a side; `channels` of its convolutions, each of stride 2; `patches` of a slice are judged and their
    scores averaged. Phases are rounded to `phase_levels` in both classes. It counts only where zero and white phase are
    told from real phase with at least `limits["separable"]`, and real phase from real phase, mean of `null_draws`
    divisions, with 0.5 within `limits["null"]`.
    """

    patch: int = 64
    channels: tuple[int, ...] = (16, 32, 64)
    steps: int = 150
    batch: int = 32
    learning_rate: float = 2e-3
    patches: int = 4
    phase_levels: int = 4096
    null_draws: int = 4
    limits: Mapping[str, float] = field(default_factory=lambda: {"separable": 0.95, "null": 0.07})

    def __post_init__(self) -> None:
        counts = (self.patch, self.steps, self.batch, self.patches, self.null_draws, *self.channels)
        if min(counts) < 1 or not self.channels or self.learning_rate <= 0 or self.phase_levels < 2:
            raise ValueError("classifier: expected positive numbers, and two phase_levels or more")
        if set(self.limits) != {"separable", "null"}:
            raise ValueError("classifier.limits: expected separable and null")


@dataclass(frozen=True)
class NonInferiority:
    """Which numbers of evaluations are compared, and the margin of each metric in its own unit."""

    steps: int = 2
    teacher_steps: int = 128
    margins: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.steps, self.teacher_steps) < 1:
            raise ValueError("noninferiority: steps and teacher_steps must be 1 or more")
        if set(self.margins) != set(METRIC_NAMES):
            missing = sorted(set(METRIC_NAMES) - set(self.margins))
            unknown = sorted(set(self.margins) - set(METRIC_NAMES))
            raise ValueError(
                f"noninferiority.margins: missing {missing}, unknown {unknown}; expected one for each metric"
            )
        if min(self.margins.values()) < 0:
            raise ValueError("noninferiority.margins: expected 0 or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """Everything that is fixed before an evaluation; see the comments of `evaluation.toml`."""

    noninferiority: NonInferiority
    classifier: ClassifierConfig
    descriptive_anatomy: tuple[str, ...] = ("brain",)
    max_slices: int = 8
    seeds: int = 2
    diversity_slices: int = 2
    interval_sessions: int = 8
    interval_level: float = 0.95
    interval_draws: int = 2000

    def __post_init__(self) -> None:
        if self.max_slices < 0 or min(self.seeds, self.interval_sessions, self.interval_draws) < 1:
            raise ValueError(
                "expected max_slices of 0 or more; seeds, interval_sessions and interval_draws of 1 or more"
            )
        if self.diversity_slices < 0 or not 0 < self.interval_level < 1:
            raise ValueError("expected diversity_slices of 0 or more and an interval_level between 0 and 1")

    def is_descriptive(self, anatomy: str | None) -> bool:
        """Say whether a session of this anatomy is only shown."""
        return (anatomy or "").lower().startswith(tuple(word.lower() for word in self.descriptive_anatomy))


def read_config(path: Path | None = None) -> EvaluationConfig:
    """Read a TOML configuration, the package's own where None.

    Raises
    ------
    RequestError
        The file is missing, is not TOML, or holds an unknown or impossible entry.
    """
    path = path or DEFAULT
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}; expected a TOML configuration like {DEFAULT.name}") from error
    except ValueError as error:
        raise RequestError(f"{path}: not TOML ({error})") from error
    try:
        noninferiority = NonInferiority(**table.pop("noninferiority", {}))
        classifier = ClassifierConfig(**_tuples(table.pop("classifier", {})))
        return EvaluationConfig(noninferiority, classifier, **_tuples(table))
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path}: {error}; expected the entries of {DEFAULT.name}") from error


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
