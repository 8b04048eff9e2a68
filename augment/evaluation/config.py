"""Settings of an evaluation, fixed before the run; `evaluation.toml` contains those of the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from rephase.config import Count, NonNegative, Positive, Share, Whole
from rephase.evaluation.metrics import METRIC_NAMES

DEFAULT = Path(__file__).parent / "evaluation.toml"


@dataclass(frozen=True)
class ClassifierLimits:
    """When the classifier counts."""

    separable: Share = 0.95
    """Least AUC at which zero and white phase are separated from real phase."""
    null: Share = 0.07
    """Largest distance from 0.5 of the AUC of real against real phase."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Architecture and budget of the classifier of real against generated phase."""

    patch: Count = 64
    """Pixels a side of a patch."""
    channels: tuple[Count, ...] = (16, 32, 64)
    """Output channels of the convolutions, each of stride 2."""
    steps: Count = 150
    """Optimiser steps of a training."""
    batch: Count = 32
    """Patches per step."""
    learning_rate: Positive = 2e-3
    """Learning rate of the optimiser."""
    patches: Count = 4
    """Patches per slice whose scores are averaged."""
    phase_levels: Annotated[int, Ge(2)] = 4096
    """Phases of both classes are rounded to this number of levels."""
    null_draws: Count = 4
    """Divisions of the real phase into two classes, over which the null AUC is averaged."""
    limits: ClassifierLimits = field(default_factory=ClassifierLimits)
    """When the classifier counts."""

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("channels: found none; expected one or more")


@dataclass(frozen=True)
class NonInferiority:
    """Comparison of numbers of sampling steps."""

    margins: Mapping[str, NonNegative]
    """Margin of each metric, in its own unit."""
    steps: Count = 2
    """Sampling steps that must not be worse."""
    teacher_steps: Count = 128
    """Sampling steps of the reference."""

    def __post_init__(self) -> None:
        missing = sorted(set(METRIC_NAMES) - set(self.margins))
        unknown = sorted(set(self.margins) - set(METRIC_NAMES))
        if missing or unknown:
            raise ValueError(f"margins: missing {missing}, unknown {unknown}; expected one of each metric")


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of `rephase evaluate phase`."""

    noninferiority: NonInferiority
    """Comparison of numbers of sampling steps."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Classifier of real against generated phase."""
    descriptive_anatomy: tuple[str, ...] = ("brain",)
    """Sessions whose anatomy starts with one of these words are reported, but excluded from every conclusion."""
    max_slices: Whole = 8
    """Slices of each volume, in neighbouring pairs spread evenly over it; 0 takes all."""
    seeds: Count = 2
    """Samples of each slice for the diversity."""
    diversity_slices: Whole = 2
    """Slices of each volume for the diversity."""
    interval_sessions: Count = 8
    """Least number of sessions for a confidence interval of a mean."""
    interval_level: Annotated[float, Gt(0), Lt(1)] = 0.95
    """Confidence level."""
    interval_draws: Count = 2000
    """Bootstrap resamplings."""

    def is_descriptive(self, anatomy: str | None) -> bool:
        """Return whether sessions of this anatomy are reported only."""
        return (anatomy or "").lower().startswith(tuple(word.lower() for word in self.descriptive_anatomy))
