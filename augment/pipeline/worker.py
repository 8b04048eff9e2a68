"""The context of a worker process, which all volumes that it builds share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rephase.corpus.store import CorpusStore
from rephase.counters import Counters
from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.generators import PhaseGenerator
from rephase.diffusion.phases import PHASES
from rephase.diffusion.registry import generator_for, make_generator
from rephase.errors import RequestError
from rephase.manifests.record import ManifestRow
from rephase.pipeline.memory import AdmissionLock, MemoryLimits
from rephase.pipeline.recipe import Recipe
from rephase.pipeline.timeout import Watchdog
from rephase.readers.volume import Volume
from rephase.scanner.arrays import BANK
from rephase.scanner.bank import CoilBank, read_bank


@dataclass(frozen=True)
class WorkerContext:
    """State shared by the volumes of one process: the corpus, the recipe, the generator, and the sampling lock.

    `generator` is None for real phase. `environment` is stored in every receipt; with `allow_mixed` it may differ.
    `read` reads a volume in place of `read_volume`. `also` has the contexts of further corpora that get the same
    volumes, each with its number of replicas.
    """

    store: CorpusStore
    recipe: Recipe
    generator: PhaseGenerator | None
    environment: dict[str, str]
    bank: CoilBank | None = None
    batch_size: int | None = None
    limits: MemoryLimits = field(default_factory=MemoryLimits)
    overwrite: bool = False
    allow_mixed: bool = False
    watchdog: Watchdog = field(default_factory=Watchdog)
    sampling: threading.Lock = field(default_factory=threading.Lock)
    admission: AdmissionLock = field(default_factory=AdmissionLock)
    counters: Counters = field(default_factory=Counters)
    read: Callable[[ManifestRow, int | None], Volume] | None = None
    also: tuple[tuple[WorkerContext, int], ...] = ()

    def generator_for(self, sequence: str | None) -> PhaseGenerator | None:
        """Return the generator of a volume of this family; None for real phase."""
        return None if self.generator is None else generator_for(self.generator, sequence)


def open_worker(
    root: str,
    recipe: Recipe,
    environment: dict[str, str],
    *,
    device: str = "cpu",
    checkpoint: Checkpoint | Path | None = None,
    bank: CoilBank | Path | None = None,
    batch_size: int | None = None,
    limits: MemoryLimits | None = None,
    overwrite: bool = False,
    allow_mixed: bool = False,
    watchdog: Watchdog | None = None,
    token: str = "",
) -> WorkerContext:
    """Prepare a process for building volumes: set threads, load the weights and compare them with the recipe.

    It commits under the lease of `token`, see `rephase.corpus.store.CorpusStore`.

    Raises
    ------
    RequestError
        If the weights differ from those of the recipe, or there is no corpus.
    """
    torch.set_num_threads(recipe.tile.threads)
    generator = None
    row = PHASES[recipe.phase]
    if row.generator is not None:
        steps = recipe.nfe if row.any_steps else None
        generator = make_generator(recipe.phase, checkpoint, steps, device, recipe.algorithm)
        if generator.weights_sha256 != recipe.checkpoint_sha256:
            path = checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint
            raise RequestError(
                f"{path or f'weights {row.weights!r}'}: not the weights of the recipe; expected SHA-256 "
                f"{recipe.checkpoint_sha256}; copy the same file, or install the same version, on all workers"
            )
    if isinstance(bank, Path):
        bank = read_bank(bank)
    if bank is not None and recipe.coils != f"{BANK}{bank.sha256}":
        raise RequestError(
            f"the bank of coils is not that of the recipe, {recipe.coils}; copy the same file to all workers"
        )
    return WorkerContext(
        CorpusStore.open(root, token),
        recipe,
        generator,
        environment,
        bank,
        batch_size,
        limits or MemoryLimits(),
        overwrite,
        allow_mixed,
        watchdog or Watchdog(),
    )
