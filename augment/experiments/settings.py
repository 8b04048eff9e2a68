"""Settings that experiments share, fixed before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from rephase.config import Count, Positive, Share, Whole
from rephase.errors import RequestError
from rephase.experiments.arms import parse_arm


@dataclass(frozen=True)
class DataConfig:
    """Which data are used, and on which matrix."""

    matrix: tuple[Count, Count] = (96, 96)
    """Height and width: larger k-space is cropped to its centre, a smaller field of view is padded with zeros."""
    volumes_per_subject: Whole = 0
    """Volumes of a subject, evenly spread over its rows; 0 takes all."""
    pictures: Count = 8
    """Pictures of the arm natural."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, equal for all arms."""

    steps: Count = 400
    """Updates of the network."""
    batch: Count = 4
    """Slices per update."""
    learning_rate: Positive = 2e-3
    """Learning rate after the warm-up; it falls to 0 as a cosine."""
    warmup: Whole = 20
    """Updates in which the learning rate rises."""
    finetune_steps: tuple[Count, ...] = (50, 100, 200)
    """Further updates of arms that start from other weights, each a result of its own."""
    finetune_rate: Share = 0.2
    """Learning rate of these updates as a share of `learning_rate`."""


@dataclass(frozen=True)
class Comparison:
    """A difference between two arms that is to be judged, and its margin."""

    arm: str
    """The arm that is judged; with the number of its last updates after a comma if it is fine-tuned."""
    against: str
    """The arm that it is compared with."""
    metric: str
    """The metric."""
    condition: str
    """The condition, such as R=8."""
    margin: Positive
    """Largest difference to the worse side that counts as equal, in units of the metric, or as a share of the other
    arm's mean if `relative`."""
    relative: bool = False
    """Whether the margin is a share of the mean of `against`."""

    def __post_init__(self) -> None:
        for text in (self.arm, self.against):
            try:
                parse_arm(text.partition(",")[0])
            except RequestError as error:
                raise ValueError(str(error)) from None


@dataclass(frozen=True)
class StatisticsConfig:
    """Bootstrap over seeds and subjects."""

    subjects: Annotated[int, Ge(2)] = 5
    """Least number of test subjects for an interval."""
    level: Annotated[float, Gt(0), Lt(1)] = 0.95
    """Confidence level of the intervals."""
    draws: Count = 2000
    """Bootstrap resamplings."""
