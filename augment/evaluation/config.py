"""Settings of an evaluation, fixed before the run; `evaluation.toml` contains those of the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from rephase.config import Count, Positive, Share, Whole

DEFAULT = Path(__file__).parent / "evaluation.toml"


@dataclass(frozen=True)
class IntervalConfig:
    """Bootstrap intervals over groups."""

    groups: Count = 4
    """Least number of groups for an interval."""
    level: Annotated[float, Gt(0), Lt(1)] = 0.95
    """Confidence level."""
    draws: Count = 2000
    """Bootstrap resamplings."""


@dataclass(frozen=True)
class ClassifierLimits:
    """When the classifier counts, and how near to 0.5 a generator must come."""

    separable: Share = 0.99
    """Least AUROC at which zero, white and smooth phase are separated from real phase."""
    null: Share = 0.07
    """Largest distance from 0.5 of the AUROC of real against real phase."""
    met: Share = 0.16
    """Largest distance from 0.5 of the AUROC of a generator whose phase passes."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Architecture and budget of the classifier of real against generated phase."""

    patch: Count = 64
    """Pixels a side of a patch."""
    channels: tuple[Count, ...] = (16, 32, 64)
    """Output channels of the convolutions, each of stride 2."""
    steps: Count = 700
    """Optimiser steps of a training."""
    batch: Count = 32
    """Patches per step."""
    learning_rate: Positive = 2e-3
    """Learning rate of the optimiser at the first step; it falls to 0 as a cosine."""
    patches: Count = 8
    """Patches per slice whose scores are averaged."""
    phase_levels: Annotated[int, Ge(2)] = 4096
    """Phases of both classes are rounded to this number of levels."""
    null_draws: Count = 3
    """Divisions of the real phase into two classes, over which the null AUROC is averaged."""
    limits: ClassifierLimits = field(default_factory=ClassifierLimits)
    """When the classifier counts, and when a generator passes."""

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("channels: found none; expected one or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of `rephase evaluate phase`."""

    interval: IntervalConfig = field(default_factory=IntervalConfig)
    """Bootstrap intervals over groups."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Classifier of real against generated phase."""
    max_slices: Whole = 8
    """Slices of each volume, in neighbouring pairs spread evenly over it; 0 takes all."""
    seeds: Count = 2
    """Samples of each slice for the diversity."""
    diversity_slices: Whole = 2
    """Slices of each volume for the diversity."""
