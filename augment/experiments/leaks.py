"""Whether the weights of a generator have seen the rows of an experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rephase.diffusion.phases import PHASES
from rephase.diffusion.shipped import describe_missing, shipped_weights
from rephase.errors import RequestError
from rephase.experiments.arms import REAL, ZERO
from rephase.experiments.corpora import Corpora


@dataclass(frozen=True)
class Leak:
    """What a generator has seen.

    Attributes
    ----------
    arm
        Name of the phase.
    train, test
        Volumes of the experiment that the weights were trained on.
    known
        Whether the model card lists its sources; without the list nothing can be said.
    """

    arm: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    known: bool

    @property
    def text(self) -> str:
        """One line for the tables; empty if nothing leaks."""
        if not self.known:
            return f"{self.arm}: the model card does not list its sources: what the weights have seen is unknown"
        found = [
            f"{len(names)} {which} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for which, names in (("training volumes", self.train), ("TEST volumes", self.test))
            if names
        ]
        return f"{self.arm}: its weights were trained on {' and '.join(found)}" if found else ""


def find_leaks(name: str, card: Path, train: Mapping[str, str], test: Mapping[str, str]) -> Leak:
    """Compare the sources of a checkpoint with those of an experiment.

    Parameters
    ----------
    name
        The phase that samples with it.
    card
        The model card; `data.sources` lists the SHA-256 of its training volumes.
    train, test
        SHA-256 of the source of each volume.

    Raises
    ------
    RequestError
        If the card cannot be read.
    """
    try:
        data = json.loads(card.read_text("utf-8")).get("data", {})
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError(f"{card}: no readable model card ({error}); expected JSON beside the weights") from error
    sources = data.get("sources")
    if not isinstance(sources, list):
        return Leak(name, (), (), known=False)
    seen = frozenset(map(str, sources))

    def met(volumes: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(sorted(volume for volume, digest in volumes.items() if digest in seen))

    return Leak(name, met(train), met(test), known=True)


def leaks_of(corpora: Corpora, names: Sequence[str], checkpoint: Path | None) -> list[Leak]:
    """Compare the weights of the learned phases with the rows of both splits.

    Parameters
    ----------
    corpora
        Those of the experiment.
    names
        Names of the corpora that arms are trained on.
    checkpoint
        Weights of the phase `diffusion`; None for the shipped ones.

    Raises
    ------
    RequestError
        If weights are missing, or their model card cannot be read.
    """
    found = []
    for name in names:
        phase = PHASES.get(name)
        if phase is None or not phase.learned or phase.weights is None:
            continue
        weights = (checkpoint if name == "diffusion" else None) or shipped_weights(phase.weights)
        if weights is None:
            raise RequestError(f"arm {name}: {describe_missing(phase.weights)}")
        # weights may have seen a row with its phase, or its magnitude alone
        train = {f"{volume} (magnitude)": digest for volume, digest in corpora.sources(name).items()}
        test = {f"{volume} (magnitude)": digest for volume, digest in corpora.sources(ZERO, test=True).items()}
        train, test = train | corpora.sources(REAL), test | corpora.sources(REAL, test=True)
        found.append(find_leaks(name, weights.with_suffix(".json"), train, test))
    return found
