"""A small classifier of real against generated phase: an AUROC of 0.5 is the best that a generator can reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rephase.evaluation.config import ClassifierConfig
from rephase.evaluation.sessions import divide_groups
from rephase.evaluation.statistics import PhaseVolume

CONTROLS = ("zero", "white")
"""Phases that the classifier must separate from real ones for its figures to be valid."""


@dataclass(frozen=True)
class Item:
    """A slice of one class: complex image `(height width)`, 0 outside the object, about 1 in bright tissue."""

    image: NDArray[np.complex64]
    group: str


@dataclass(frozen=True)
class ClassifierResult:
    """Result of the classifier.

    `auroc` by generator, mean of the two folds; `null` is that of real against real phase. If not `measurable`, the
    figures are invalid, for the given `reason`.
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
        Label and slices of each generator, consumed one at a time; `CONTROLS` must be among them.
    config
        Architecture and budget.
    device
        "cpu" or "cuda".
    progress
        Called after each of `num_trainings` trainings.

    Returns
    -------
    result
        Mean of both folds; a group of slices is used either for training or for testing.
    """
    first, second = divide_groups((item.group for item in real), 2)
    if not second:
        return ClassifierResult(False, "fewer than two sessions or volumes; expected two or more", math.nan)

    def both(one: Sequence[Item], other: Sequence[Item], seed: int) -> float:
        found = []
        for train in (True, False):
            parts = [[i for i in items if (i.group in first) == train] for items in (one, other)]
            tests = [[i for i in items if (i.group in first) != train] for items in (one, other)]
            network = train_classifier(parts[0], parts[1], config, seed, device)
            found.append(auroc(*(evaluate_classifier(network, part, config, seed, device) for part in tests)))
            progress()
        return float(np.mean(found))

    null = float(np.mean([both(*halve(real, draw), draw) for draw in range(config.null_draws)]))
    found = {label: both(real, items, 0) for label, items in generated}
    reason = _reason(null, found, config)
    return ClassifierResult(not reason, reason, null, found)


def num_trainings(num_generators: int, config: ClassifierConfig) -> int:
    """Return the number of networks that `classify` trains."""
    return 2 * (num_generators + config.null_draws)


def _reason(null: float, found: Mapping[str, float], config: ClassifierConfig) -> str:
    least, width = config.limits.separable, config.limits.null
    reasons = [
        f"AUROC of {name} against real phase {found[name]:.3f}; expected {least} or more"
        for name in CONTROLS
        if not found[name] >= least
    ]
    if not abs(null - 0.5) <= width:
        reasons.append(f"AUROC of real against real phase {null:.3f}; expected 0.5 within {width}")
    return "; ".join(reasons)


def halve(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Split the slices of each group into two random classes of equal size, which do not differ."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    halves: tuple[list[Item], list[Item]] = [], []
    for group in dict.fromkeys(item.group for item in items):
        members = [item for item in items if item.group == group]
        for place, index in enumerate(random.permutation(len(members))):
            halves[place % 2].append(members[index])
    return halves


def make_network(config: ClassifierConfig, seed: int) -> nn.Module:
    """Build the network: convolutions of stride 2, group normalisation and ReLU; mean and maximum; a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in zip((2, *config.channels[:-1]), config.channels, strict=True):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(math.gcd(4, after), after), nn.ReLU()]
        return nn.Sequential(*layers, _MeanAndMaximum(), nn.Linear(2 * config.channels[-1], 1))


class _MeanAndMaximum(nn.Module):
    """Mean and maximum over the pixels: `(batch channel height width)` to `(batch 2*channel)`."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat((hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))), dim=1)


def train_classifier(
    real: Sequence[Item], generated: Sequence[Item], config: ClassifierConfig, seed: int, device: str
) -> nn.Module:
    """Train with the configured budget; each batch is 50% real, 50% generated."""
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
def evaluate_classifier(
    network: nn.Module, items: Sequence[Item], config: ClassifierConfig, seed: int, device: str
) -> NDArray[np.float64]:
    """Return a score per slice, the mean over some of its patches; a higher score indicates generated phase."""
    random = np.random.Generator(np.random.Philox(key=[seed, 3]))
    scores = [
        network(batch_of([item] * config.patches, config.patch, random).to(device)).mean().item() for item in items
    ]
    return np.array(scores, dtype=np.float64)


def auroc(real: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: the probability that a generated slice scores higher than a real one.

    Ties count 1/2 (Mann and Whitney 1947).
    """
    difference = generated[:, None] - real[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def make_items(volumes: Sequence[PhaseVolume], groups: Sequence[str], phase_levels: int) -> list[Item]:
    """Build an item from each slice with an object; phases are rounded to `phase_levels` levels."""
    items = []
    step = 2.0 * np.pi / phase_levels
    for one, group in zip(volumes, groups, strict=True):
        angle = np.rint(np.angle(one.phasor) / step) * step
        bright = max(float(np.percentile(one.magnitude, 99.0)), 1e-20)
        images = np.where(one.support, one.magnitude / bright * np.exp(1j * angle), 0.0).astype(np.complex64)
        items += [Item(image, group) for image, inside in zip(images, one.support, strict=True) if inside.any()]
    return items


def sample_patch(item: Item, side: int, random: np.random.Generator) -> NDArray[np.complex64]:
    """Sample a patch `(side side)` around a random pixel of the object; rotate, flip, and add a random global phase.

    The global phase of a scan is arbitrary, so it must not separate the classes. Small slices are zero-padded.
    """
    rows, columns = np.nonzero(item.image)
    chosen = int(random.integers(len(rows)))
    patch = np.zeros((side, side), np.complex64)
    cuts = [_cut(int(at[chosen]), size, side) for at, size in zip((rows, columns), item.image.shape, strict=True)]
    part = item.image[cuts[0], cuts[1]]
    patch[: part.shape[0], : part.shape[1]] = part
    patch = np.rot90(patch, int(random.integers(4)))
    if random.random() < 0.5:
        patch = patch[::-1]
    augmented: NDArray[np.complex64] = (patch * np.exp(2j * np.pi * random.random())).astype(np.complex64)
    return augmented


def batch_of(items: Sequence[Item], side: int, random: np.random.Generator) -> torch.Tensor:
    """Return a patch of each item as real and imaginary channels, float32 `(item 2 side side)`."""
    patches = np.stack([sample_patch(item, side, random) for item in items])
    return torch.from_numpy(np.stack([patches.real, patches.imag], axis=1))


def _cut(centre: int, size: int, side: int) -> slice:
    start = max(min(centre - side // 2, size - side), 0)
    return slice(start, min(start + side, size))
