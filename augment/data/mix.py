"""Real and synthetic slices in one data set, in an exact share: the hybrid training of the paper.

train = mix(FastMRISlices("multicoil_train"), KSpaceSlices("corpus.zarr"), real_fraction=0.15, seed=1)
for epoch in range(10):
    train.set_epoch(epoch)
    for batch in DataLoader(train, batch_size=20, num_workers=2):   # 3 of every 20 are real
        ...
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from rephase.data.base import Matrix, VolumeSlices
from rephase.data.order import exact_fraction, shuffled
from rephase.errors import RequestError


def mix(
    real: VolumeSlices,
    synthetic: VolumeSlices,
    real_fraction: float = 0.15,
    seed: int = 0,
    num_slices: int | None = None,
) -> MixedSlices:
    """Mix two data sets.

    Parameters
    ----------
    real, synthetic
        `FastMRISlices`, `KSpaceSlices`; each keeps its own transform.
    real_fraction
        Share of real slices, 0 to 1, taken as it is written: 0.15 is 15 of 100.
    seed
        Of the choice and of the order.
    num_slices
        Of an epoch. Default: as many as there can be without giving a slice twice. With more than that, the slices of
        the smaller set are given again, each as often as any other (or once more).

    Raises
    ------
    RequestError
        If the share makes no sense, or a set has no slices for it.
    """
    if not 0 <= real_fraction <= 1:
        raise RequestError(f"real_fraction {real_fraction}: expected 0 to 1")
    fraction = exact_fraction(real_fraction)
    for name, slices, share in (("real", real, fraction), ("synthetic", synthetic, 1 - fraction)):
        if share and not len(slices):
            raise RequestError(f"{name}: no slices, of which {float(share):g} of the mixture are to be; expected some")
    if num_slices is None:
        limits = [len(real) / fraction] if fraction else []
        limits += [len(synthetic) / (1 - fraction)] if fraction < 1 else []
        num_slices = int(min(limits))
    if num_slices < 1:
        raise RequestError(f"num_slices {num_slices}: expected 1 or more; the smaller set has too few for this share")
    return MixedSlices(real, synthetic, fraction, seed, num_slices)


class MixedSlices(Dataset[Any]):
    """Real and synthetic slices, already shuffled; see `mix`.

    The share holds everywhere: of the first `n` items, `floor(n * real_fraction)` are real, so any run of them, in
    particular a batch, is within one slice of it. Read it in order (no `shuffle`, `DistributedSampler(shuffle=False)`);
    another order keeps the share of the epoch only. `set_epoch` chooses anew which slices come, and their order, also
    in `persistent_workers`.
    """

    def __init__(
        self, real: VolumeSlices, synthetic: VolumeSlices, real_fraction: Fraction, seed: int, num_slices: int
    ) -> None:
        self.real, self.synthetic = real, synthetic
        self.real_fraction, self.seed, self.num_slices = real_fraction, seed, num_slices
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._drawn: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def num_real(self) -> int:
        """Real slices of an epoch."""
        return self._real_before(self.num_slices)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        self._epoch[0] = epoch

    def source(self, index: int) -> tuple[bool, int]:
        """Tell whether an item is real, and its number in its own data set."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        index = int(index) % len(self)
        before = self._real_before(index)
        is_real = self._real_before(index + 1) > before
        real, synthetic = self._choice()
        return is_real, int(real[before] if is_real else synthetic[index - before])

    def shape_codes(self) -> tuple[list[Matrix], NDArray[np.int64]]:
        """Give the different sizes, and for every item the number of its own among them."""
        real_shapes, real_codes = self.real.shape_codes()
        shapes, codes = self.synthetic.shape_codes()
        known = {shape: number for number, shape in enumerate(dict.fromkeys([*real_shapes, *shapes]))}
        of_real = np.array([known[shape] for shape in real_shapes], np.int64)[real_codes]
        of_synthetic = np.array([known[shape] for shape in shapes], np.int64)[codes]
        real, synthetic = self._choice()
        counts = np.array([self._real_before(number) for number in range(len(self) + 1)])
        found = np.empty(len(self), np.int64)
        is_real = np.diff(counts) > 0
        found[is_real], found[~is_real] = of_real[real], of_synthetic[synthetic]
        return list(known), found

    def __len__(self) -> int:
        return self.num_slices

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - a transform gives what it likes
        """Read one slice from the set that it is of."""
        is_real, number = self.source(index)
        return self.real[number] if is_real else self.synthetic[number]

    def _real_before(self, index: int) -> int:
        return index * self.real_fraction.numerator // self.real_fraction.denominator

    def _choice(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the slices of this epoch, of both sets; kept until the epoch changes."""
        epoch = int(self._epoch)
        if self._drawn is None or self._drawn[0] != epoch:
            real = _draw(len(self.real), self.num_real, self.seed, epoch, 0)
            synthetic = _draw(len(self.synthetic), self.num_slices - self.num_real, self.seed, epoch, 1)
            self._drawn = epoch, real, synthetic
        return self._drawn[1:]


def _draw(available: int, wanted: int, *key: int) -> NDArray[np.int64]:
    """Draw slices, each as often as any other or once more: rounds over all of them, every round in another order."""
    rounds = [shuffled(available, *key, number) for number in range(-(-wanted // available) if wanted else 0)]
    return np.concatenate(rounds)[:wanted] if rounds else np.zeros(0, np.int64)
