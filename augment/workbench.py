"""What a volume's work needs: the task, the process's shared bench, and the outcome."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from augment.errors import RequestError
from augment.receipts import volume_name
from augment.recipe import Recipe
from augment.restore import Lost
from augment.room import Limits, Room
from augment.store import CorpusStore
from augment.time_limit import VolumeClock
from cluster.counters import Counters
from diffusion.checkpoint import load_checkpoint
from diffusion.fat import fat_facts
from diffusion.generators import PhaseGenerator
from diffusion.select import make_generator
from manifests.record import ManifestRow

Status = Literal["built", "skipped", "failed"]


@dataclass(frozen=True)
class Task:
    """One volume to be made: a row and which of its replicas. Holds paths and ids, never pixels.

    `lost` is what is recorded of a volume that was damaged and is to be made again.
    """

    row: ManifestRow
    replica: int = 0
    lost: Lost | None = None

    @property
    def name(self) -> str:
        """Of the volume in the corpus."""
        return volume_name(self.row.volume_id, self.replica)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"volume {self.name} ({self.row.path})"


@dataclass(frozen=True)
class Outcome:
    """How one volume ended.

    `reason` and `message` are set for a failed one. `seconds` per stage; `waiting` is the wait for the sampling lock.
    `num_bytes` counts the arrays before compression. `disk_full` tells that no other volume will fare
    better. `receipt` holds the committed attributes, also of a skipped one.
    """

    name: str
    status: Status
    reason: str | None = None
    message: str | None = None
    num_slices: int = 0
    num_bytes: int = 0
    disk_full: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    receipt: dict[str, Any] | None = None


@dataclass(frozen=True)
class Workbench:
    """What the volumes of one process share: the corpus, the recipe, the model, and the lock under which it samples.

    `generator` is None for real phase. `environment` goes into every receipt. `allow_mixed`: it may differ.
    """

    store: CorpusStore
    recipe: Recipe
    generator: PhaseGenerator | None
    environment: dict[str, str]
    batch_size: int | None = None
    limits: Limits = field(default_factory=Limits)
    overwrite: bool = False
    allow_mixed: bool = False
    clock: VolumeClock = field(default_factory=VolumeClock)
    sampling: threading.Lock = field(default_factory=threading.Lock)
    room: Room = field(default_factory=Room)
    counters: Counters = field(default_factory=Counters)


def open_workbench(
    root: str,
    recipe: Recipe,
    environment: dict[str, str],
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    batch_size: int | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
    allow_mixed: bool = False,
    clock: VolumeClock | None = None,
) -> Workbench:
    """Make a process ready to build volumes: threads set, model loaded and compared with the recipe.

    Raises
    ------
    RequestError
        If the checkpoint here is not the recipe's, or there is no corpus.
    """
    torch.set_num_threads(recipe.tile.threads)
    generator = None
    if recipe.phase != "real":
        steps = recipe.nfe if recipe.phase == "diffusion" else None
        generator = make_generator(recipe.phase, checkpoint, steps, device)
        if checkpoint is not None and load_checkpoint(checkpoint).sha256 != recipe.checkpoint_sha256:
            raise RequestError(f"{checkpoint}: not the weights of the recipe; copy the same file to all workers")
        if recipe.phase == "tissue" and fat_facts("tissue")["fat"]["sha256"] != recipe.checkpoint_sha256:
            raise RequestError('the weights "fat" here are not those of the recipe; install one version on all workers')
    return Workbench(
        CorpusStore.open(root),
        recipe,
        generator,
        environment,
        batch_size,
        limits or Limits(),
        overwrite,
        allow_mixed,
        clock or VolumeClock(),
    )
