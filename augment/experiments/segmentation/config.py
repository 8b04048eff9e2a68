"""Settings of `rephase evaluate segmentation`, fixed before the run; a file for each preset has its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from rephase.config import Count, Positive
from rephase.experiments.settings import Comparison, DataConfig, StatisticsConfig, TrainingConfig

PRESETS = ("quick", "standard")
Model = Literal["image", "kspace"]
MODELS: tuple[Model, ...] = ("image", "kspace")
METRICS = {"dice": False, "hd95": True}
"""Metrics, and whether lower is better; the first one decides."""
REAL_TEST, ZERO_TEST = "real phase", "zero phase"
"""The test on real k-space, and on the magnitudes of the same volumes with zero phase."""


@dataclass(frozen=True)
class RuleConfig:
    """The rule that labels magnitudes where the manifest has no segmentation; see `labels.rule`."""

    smooth_mm: Positive = 1.5
    """Standard deviation of the Gaussian before the threshold."""
    bridge_mm: Positive = 4.0
    """Bridges narrower than twice this, such as those from brain to scalp, are cut."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks."""

    channels: Count = 12
    """Channels of the U-Net of `image` at its first resolution; twice as many at each further one."""
    levels: Annotated[int, Ge(2)] = 3
    """Resolutions of the U-Net, the first at half of the matrix."""
    complex_channels: Count = 8
    """Complex channels of `kspace`."""
    kernel: Annotated[int, Ge(1)] = 7
    """Width of the kernels of `kspace` in samples, an odd number."""


@dataclass(frozen=True)
class SegmentationConfig:
    """Settings of `rephase evaluate segmentation`."""

    arms: tuple[str, ...]
    """Arms without --arms; the controls are added."""
    comparisons: tuple[Comparison, ...]
    """Differences that are judged, with their margins; those of arms that are not run are left out."""
    seeds: Count = 3
    """Trainings of each arm."""
    models: tuple[Model, ...] = MODELS
    """Networks: `image` is given the complex image, `kspace` k-space, of which it makes k-space."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which data are used."""
    rule: RuleConfig = field(default_factory=RuleConfig)
    """Labels where the manifest has none."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimisation."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Sizes of the networks."""
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    """Bootstrap over seeds and subjects."""

    def __post_init__(self) -> None:
        step = 2**self.network.levels
        if any(size % step for size in self.data.matrix):
            raise ValueError(f"data.matrix: found {list(self.data.matrix)}; expected multiples of {step}")
        if self.network.kernel % 2 == 0:
            raise ValueError(f"network.kernel: found {self.network.kernel}; expected an odd number")
        if not self.models:
            raise ValueError("models: found none; expected one or more")
        for one in self.comparisons:
            if one.metric not in METRICS:
                raise ValueError(f"comparisons: metric {one.metric!r}; expected one of {', '.join(METRICS)}")
            if one.condition != REAL_TEST:
                raise ValueError(f"comparisons: condition {one.condition!r}; expected {REAL_TEST!r}")


def preset(name: str) -> Path:
    """Return the file of a preset."""
    return Path(__file__).parent / f"{name}.toml"
