"""Resolve the options of a build: phase generator, loaded weights, and the recipe for a device type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rephase.builder.options import BuildOptions
from rephase.cluster.kinds import ClusterModule, find_cluster
from rephase.corpus.expansion import LAZY
from rephase.corpus.store import CorpusStore
from rephase.diffusion.checkpoint import Checkpoint, load_checkpoint
from rephase.diffusion.learned import GPU_TILE
from rephase.diffusion.phases import PHASES
from rephase.diffusion.registry import make_generator
from rephase.diffusion.seen import Seen
from rephase.diffusion.shipped import describe_missing, shipped_weights
from rephase.errors import RequestError
from rephase.pipeline.recipe import ALGORITHM, ALGORITHMS, LATER, Recipe, Tile
from rephase.scanner.acquisition import parse_acquisition, parse_mask
from rephase.scanner.arrays import BANK, parse_noise, split_coils
from rephase.scanner.bank import CoilBank, read_bank
from rephase.text import one_line

DEFAULT_PHASE = "field"
"""The phase of a build whose options name neither phase nor weights: physics, nearer to real phase than a network that
was trained on the permissively licensed data there are."""


@dataclass(frozen=True)
class ResolvedBuild:
    """A build with resolved options; all later steps use this instead of the options.

    Attributes
    ----------
    root
        Path or URL of the corpus.
    options
        The unresolved options.
    cluster
        Starts or joins the cluster of `--cluster`.
    phase
        One of `rephase.diffusion.phases.PHASES`.
    checkpoint
        The loaded weights; None for a phase that is not learned.
    nfe
        Network evaluations per slice.
    weights_sha256
        SHA-256 of the checkpoint, or of the weights that a phase needs without `--checkpoint`; None without any.
    licence
        Licence of the weights or of fitted statistics; None if not stated or without any.
    seen
        What the weights have seen in training; None if not stated or without any.
    algorithm
        One of `rephase.pipeline.recipe.ALGORITHMS`: that of a corpus that is resumed, else the latest.
    bank
        The bank of coils that `--coils` names; None without one.
    """

    root: str
    options: BuildOptions
    cluster: ClusterModule
    phase: str
    checkpoint: Checkpoint | None
    nfe: int
    weights_sha256: str | None
    licence: str | None = None
    seen: Seen | None = None
    algorithm: int = ALGORITHM
    bank: CoilBank | None = None

    @property
    def bank_path(self) -> Path | None:
        """Absolute path of the bank of coils; None without one."""
        coils = self.options.coils
        return None if self.bank is None or coils is None else Path(coils.removeprefix(BANK)).absolute()

    @property
    def uses_model(self) -> bool:
        """Whether workers run a network (on a GPU, if they have one)."""
        return self.checkpoint is not None

    def recipe(self, device: str = "cpu") -> Recipe:
        """Return the recipe for a device type, "cpu" or "cuda", which determines the slices per network call."""
        tile = Tile()
        if self.checkpoint is not None:
            slices = 1 if device == "cpu" else GPU_TILE
            tile = Tile(slices=slices, multiple=self.checkpoint.network.config.multiple)
        return Recipe(
            phase=self.phase,
            nfe=self.nfe,
            checkpoint_sha256=self.weights_sha256,
            seed=self.options.seed,
            negative=self.options.negative,
            keep_columns=tuple(sorted(set(self.options.keep_columns))),
            tile=tile,
            share_field_by=self.options.share_field_by,
            coils=self.options.coils if self.bank is None else f"{BANK}{self.bank.sha256}",
            storage=None if self.options.coils is None else self.options.storage or LAZY,
            num_coils=self._num_coils(),
            **self._noise(),
            acquisition=parse_acquisition(self.options.acquisition or "full").text or None,
            mask=None if self.options.mask is None else parse_mask(self.options.mask).text,
            on_crime=None if self.options.on_crime == "warn" else self.options.on_crime,
            algorithm=self.algorithm,
        )

    def _noise(self) -> dict[str, Any]:
        options = self.options
        if options.noise in (None, "off"):
            return {}
        covariance = options.noise_covariance or ("identity" if self._num_coils() else None)
        if isinstance(covariance, str) and covariance not in ("identity", "head8"):
            covariance = _read_covariance(Path(covariance), self._num_coils())
        return {
            "noise": parse_noise(options.noise or ""),
            "noise_covariance": covariance,
            "target": options.target or "clean",
            "prescan": options.prescan,
        }

    def _num_coils(self) -> int:
        if self.bank is not None:
            return self.bank.num_coils
        return 0 if self.options.coils is None else split_coils(self.options.coils)[1]

    def notes(self) -> list[str]:
        """Return notes for the user before the build starts, one per line."""
        begun = f"{self.root}: begun with algorithm {self.algorithm} and resumed with it"
        lines = [f"{begun}: {lack}" for algorithm, lack in LATER.items() if algorithm > self.algorithm]
        if self.licence is not None or self.weights_sha256 is not None:
            stated = self.licence or "not stated in their card"
            lines.append(f"licence of the weights of --phase {self.phase}: {stated}")
        return lines


def resolve_build(
    root: str, options: BuildOptions, checkpoint: Checkpoint | None = None, store: CorpusStore | None = None
) -> ResolvedBuild:
    """Resolve the options of a build, load its weights and check its cluster, without starting a process.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    options
        Options of the build.
    checkpoint
        The weights, if already loaded.
    store
        The corpus, if it exists.

    Raises
    ------
    RequestError
        If the value of `--cluster` is invalid, the weights are missing or unusable, or options contradict each
        other.
    """
    cluster = find_cluster(options.cluster)
    phase = options.phase or ("diffusion" if options.checkpoint or checkpoint else DEFAULT_PHASE)
    if options.steps is not None and not PHASES[phase].any_steps:
        raise RequestError(f"--steps requires --phase diffusion; found --phase {phase}; omit one of the two")
    nfe, weights_sha256, licence, seen = 0, None, None, None
    algorithm = ALGORITHM
    if store is not None and not options.overwrite:
        found = store.attributes.get("recipe")
        begun_with = found.get("algorithm") if isinstance(found, dict) else None
        algorithm = begun_with if begun_with in ALGORITHMS else ALGORITHM
    try:
        if PHASES[phase].learned:
            checkpoint = checkpoint or _load(phase, options)
        if PHASES[phase].generator is not None:
            generator = make_generator(phase, checkpoint, options.steps, algorithm=algorithm)
            nfe, weights_sha256, licence = generator.nfe, generator.weights_sha256, generator.licence
            seen = generator.seen
    except ValueError as error:
        raise RequestError(str(error)) from None
    if options.share_field_by is not None and algorithm < 10:
        raise RequestError(
            f"{root}: begun with algorithm {algorithm}, which has no --share-field-by; omit it, or build into another "
            "corpus"
        )
    if options.on_crime in ("crop", "refuse") and algorithm < 12:
        raise RequestError(
            f"{root}: begun with algorithm {algorithm}, which has no --on-crime; omit it, or build into another corpus"
        )
    bank = None
    if options.coils is not None and options.coils.startswith(BANK):
        bank = read_bank(Path(options.coils.removeprefix(BANK)))
    return ResolvedBuild(root, options, cluster, phase, checkpoint, nfe, weights_sha256, licence, seen, algorithm, bank)


def _read_covariance(path: Path, num_coils: int) -> tuple[object, ...]:
    """Read a covariance; return the real and the imaginary part of every entry, as in a recipe."""
    from rephase.scanner.noise import given_covariance

    try:
        numbers = np.load(path, allow_pickle=False)
        matrix = given_covariance(np.asarray(numbers, np.complex128))
    except OSError as error:
        raise RequestError(
            f"--noise-covariance {path}: cannot be read ({one_line(error.strerror or error)}); expected identity, "
            "head8, or a .npy file"
        ) from None
    except (ValueError, TypeError, EOFError, np.linalg.LinAlgError) as error:
        raise RequestError(f"--noise-covariance {path}: {one_line(error)}; correct the file, or use head8") from None
    if len(matrix) != num_coils:
        raise RequestError(
            f"--noise-covariance {path}: is of {len(matrix)} coils; expected {num_coils}, those of --coils"
        )
    return tuple(tuple((float(one.real), float(one.imag)) for one in row) for row in matrix)


def _load(phase: str, options: BuildOptions) -> Checkpoint:
    weights = PHASES[phase].weights
    path = options.checkpoint or (shipped_weights(weights) if weights else None)
    if path is None:
        missing = describe_missing(weights) if weights else "expected --checkpoint"
        raise RequestError(f"--phase {phase}: {missing}, or use --phase smooth")
    return load_checkpoint(path.absolute())


def make_recipe(options: BuildOptions, device: str = "cpu") -> Recipe:
    """Resolve options to the recipe for a device type; errors as in `resolve_build`."""
    return resolve_build("", options).recipe(device)


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the differences of two recipes, as `seed: corpus has 0, requested 1`."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += describe_differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: corpus has {json.dumps(before)}, requested {json.dumps(after)}")
    return lines
