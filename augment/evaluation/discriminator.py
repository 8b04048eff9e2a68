"""The network that separates real from generated patches: its features, training and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rephase.evaluation.config import ClassifierConfig
from rephase.evaluation.patches import Item, batch_of

_NUM_FEATURES = 7
_DARK = 1e-6


class LocalFeatures(nn.Module):
    """Phase of a patch and of its neighbouring pixels: `(batch 2 height width)` to `(batch 7 height width)`.

    For the complex image x = m z: x, m, and along both axes `x(p + 1) conj x(p)` over the root of its modulus, whose
    angle is the wrapped gradient. A convolution is linear in x and would have to learn this product.
    """

    def forward(self, patches: Tensor) -> Tensor:
        """Return the features; differences across the edge of the object or the patch are 0."""
        image = torch.complex(patches[:, 0], patches[:, 1])
        features = [patches, image.abs()[:, None]]
        for axis, padding in ((1, (0, 0, 0, 1)), (2, (0, 1, 0, 0))):
            length = image.shape[axis] - 1
            product = image.narrow(axis, 1, length) * image.narrow(axis, 0, length).conj()
            product = product / (product.abs() + _DARK).sqrt()
            features.append(nn.functional.pad(torch.stack((product.real, product.imag), dim=1), padding))
        return torch.cat(features, dim=1)


class _MeanAndMaximum(nn.Module):
    """Mean and maximum over the pixels: `(batch channel height width)` to `(batch 2*channel)`."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat((hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))), dim=1)


def make_network(config: ClassifierConfig, seed: int) -> nn.Module:
    """Build the network: local features; convolutions with group normalisation and ReLU; pooling; a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [LocalFeatures()]
        for index, after in enumerate(config.channels):
            before = config.channels[index - 1] if index else _NUM_FEATURES
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(math.gcd(4, after), after)]
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, _MeanAndMaximum(), nn.Linear(2 * config.channels[-1], 1))


def train_network(
    real: Sequence[Item], generated: Sequence[Item], config: ClassifierConfig, seed: int, device: str
) -> nn.Module:
    """Train with the configured budget; each batch is 50% real, 50% generated, and as much of each family."""
    network = make_network(config, seed).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    random = np.random.Generator(np.random.Philox(key=[seed, 2]))
    half = max(config.batch // 2, 1)
    labels = torch.cat((torch.zeros(half), torch.ones(half))).to(device)
    classes = [_by_family(items) for items in (real, generated)]
    for _ in range(config.steps):
        chosen = [_draw(families, place, random) for families in classes for place in range(half)]
        logits = network(batch_of(chosen, config.patch, random).to(device))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def score_items(
    network: nn.Module, items: Sequence[Item], config: ClassifierConfig, seed: int, device: str
) -> NDArray[np.float64]:
    """Return a score per slice, the mean over some of its patches; a higher score indicates generated phase."""
    random = np.random.Generator(np.random.Philox(key=[seed, 3]))
    scores = [
        network(batch_of([item] * config.patches, config.patch, random).to(device)).mean().item() for item in items
    ]
    return np.array(scores, dtype=np.float64)


def _by_family(items: Sequence[Item]) -> list[list[Item]]:
    families: dict[str, list[Item]] = {}
    for item in items:
        families.setdefault(item.family, []).append(item)
    return list(families.values())


def _draw(families: Sequence[Sequence[Item]], place: int, random: np.random.Generator) -> Item:
    members = families[place % len(families)]
    return members[int(random.integers(len(members)))]
