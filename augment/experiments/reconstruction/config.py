"""Settings of `rephase evaluate reconstruction`, fixed before the run; a file for each preset has its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from rephase.config import Count
from rephase.experiments.settings import Comparison, DataConfig, StatisticsConfig, TrainingConfig

PRESETS = ("quick", "standard", "fastmri")
MODELS = ("unet", "unrolled")
METRICS = {"nmse": True, "ssim": False, "psnr": False}
"""Metrics, and whether lower is better; the first one decides."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks."""

    channels: Count = 20
    """Channels of the U-Net at its first resolution; twice as many at each further one."""
    levels: Annotated[int, Ge(2)] = 3
    """Resolutions of the U-Net, the first at half of the matrix."""
    cascades: Count = 3
    """Steps of the unrolled network, each a U-Net and a data consistency with a learned weight."""
    cascade_channels: Count = 12
    """Channels of the U-Net of a step."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """Settings of `rephase evaluate reconstruction`."""

    arms: tuple[str, ...]
    """Arms without --arms; the controls are added."""
    comparisons: tuple[Comparison, ...]
    """Differences that are judged, with their margins; those of arms that are not run are left out."""
    seeds: Count = 3
    """Trainings of each arm."""
    accelerations: tuple[Annotated[int, Ge(2)], ...] = (4, 8)
    """Undersampling factors: of the masks in training, one at random for each slice; each is a test."""
    models: tuple[Literal["unet", "unrolled"], ...] = ("unet",)
    """Networks: `unet`, with a data consistency at its end, and `unrolled`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which data are used."""
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
        for name in ("accelerations", "models"):
            if not getattr(self, name):
                raise ValueError(f"{name}: found none; expected one or more")
        for one in self.comparisons:
            if one.metric not in METRICS:
                raise ValueError(f"comparisons: metric {one.metric!r}; expected one of {', '.join(METRICS)}")


def preset(name: str) -> Path:
    """Return the file of a preset."""
    return Path(__file__).parent / f"{name}.toml"


def condition(acceleration: int) -> str:
    """Return the name of a test on real k-space."""
    return f"R={acceleration}"


def crime_condition(acceleration: int) -> str:
    """Return the name of a test on the k-space of the same volumes with zero phase."""
    return f"R={acceleration}, zero phase"
