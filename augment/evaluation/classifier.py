"""A small network that is to tell generated from real phase: 0.5 is the best that a generator can get."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rephase.evaluation.config import ClassifierConfig
from rephase.evaluation.patches import Item, batch_of
from rephase.evaluation.sessions import divide_groups

CONTROLS = ("zero", "white")
"""Phases that must be told from real ones, or the classifier does not count."""


@dataclass(frozen=True)
class ClassifierResult:
    """What the classifier found.

    `auroc` by generator, mean of the two folds; `null` is real phase against real phase. Where not `measurable`,
    `reason` says why, and the figures are only what was found.
    """

    measurable: bool
    reason: str
    null: float
    auroc: Mapping[str, float] = field(default_factory=dict)


def classify(
    real: Sequence[Item],
    generated: Iterable[tuple[str, Sequence[Item]]],
    config: ClassifierConfig,
    device: str = "cpu",
    progress: Callable[[], object] = lambda: None,
) -> ClassifierResult:
    """Train and test the classifier for each generator, and for real against real.

    Parameters
    ----------
    real
        The real slices.
    generated
        The same slices of each generator, after its label; `CONTROLS` must be among them. Taken one after the other.
    config
        Architecture and budget.
    device
        "cpu" or "cuda".
    progress
        Called after each of `num_trainings` trainings.

    Returns
    -------
    result
        Of both folds: a group of slices is either trained or tested on.
    """
    first, second = divide_groups((item.group for item in real), 2)
    if not second:
        return ClassifierResult(False, "fewer than two sessions or volumes: nothing to test on", math.nan)

    def both(one: Sequence[Item], other: Sequence[Item], seed: int) -> float:
        found = []
        for train in (True, False):
            parts = [[i for i in items if (i.group in first) == train] for items in (one, other)]
            tests = [[i for i in items if (i.group in first) != train] for items in (one, other)]
            network = train_classifier(parts[0], parts[1], config, seed, device)
            found.append(auroc(*(judge(network, part, config, seed, device) for part in tests)))
            progress()
        return float(np.mean(found))

    null = float(np.mean([both(*halve(real, draw), draw) for draw in range(config.null_draws)]))
    found = {label: both(real, items, 0) for label, items in generated}
    reason = _reason(null, found, config)
    return ClassifierResult(not reason, reason, null, found)


def num_trainings(num_generators: int, config: ClassifierConfig) -> int:
    """How many networks `classify` trains."""
    return 2 * (num_generators + config.null_draws)


def _reason(null: float, found: Mapping[str, float], config: ClassifierConfig) -> str:
    least, width = config.limits.separable, config.limits.null
    reasons = [
        f"{name} phase is told from real phase with {found[name]:.3f} only; expected {least} or more"
        for name in CONTROLS
        if not found[name] >= least
    ]
    if not abs(null - 0.5) <= width:
        reasons.append(f"real phase is told from real phase with {null:.3f}; expected 0.5 within {width}")
    return "; ".join(reasons)


def halve(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Divide the slices of every group into two halves by chance: two classes without a difference."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    halves: tuple[list[Item], list[Item]] = [], []
    for group in dict.fromkeys(item.group for item in items):
        members = [item for item in items if item.group == group]
        for place, index in enumerate(random.permutation(len(members))):
            halves[place % 2].append(members[index])
    return halves


def make_network(config: ClassifierConfig, seed: int) -> nn.Module:
    """Convolutions of stride 2 with group normalisation and ReLU, their mean and maximum, one linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in zip((2, *config.channels[:-1]), config.channels, strict=True):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(math.gcd(4, after), after), nn.ReLU()]
        return nn.Sequential(*layers, _MeanAndMaximum(), nn.Linear(2 * config.channels[-1], 1))


class _MeanAndMaximum(nn.Module):
    """Over the pixels: `(batch channel height width)` to `(batch 2*channel)`."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat((hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))), dim=1)


def train_classifier(
    real: Sequence[Item], generated: Sequence[Item], config: ClassifierConfig, seed: int, device: str
) -> nn.Module:
    """Train with the configured budget; each batch is half real, half generated."""
    network = make_network(config, seed).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    random = np.random.Generator(np.random.Philox(key=[seed, 2]))
    half = max(config.batch // 2, 1)
    labels = torch.cat((torch.zeros(half), torch.ones(half))).to(device)
    for _ in range(config.steps):
        chosen = [items[int(random.integers(len(items)))] for items in (real, generated) for _ in range(half)]
        logits = network(batch_of(chosen, config.patch, random).to(device))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


@torch.no_grad()
def judge(
    network: nn.Module, items: Sequence[Item], config: ClassifierConfig, seed: int, device: str
) -> NDArray[np.float64]:
    """Score each slice: the mean over some of its patches, higher is more like generated."""
    random = np.random.Generator(np.random.Philox(key=[seed, 3]))
    scores = [
        network(batch_of([item] * config.patches, config.patch, random).to(device)).mean().item() for item in items
    ]
    return np.array(scores, dtype=np.float64)


def auroc(real: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """The chance that a generated slice scores higher than a real one, ties counting half (Mann and Whitney 1947)."""
    difference = generated[:, None] - real[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
