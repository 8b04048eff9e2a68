"""Mix real and synthetic slices in an exact proportion, for hybrid training.

train = mix(FastMRISlices("multicoil_train"), KSpaceSlices("corpus.zarr"), real_fraction=0.15, seed=1)
for epoch in range(10):
    train.set_epoch(epoch)
    for batch in DataLoader(train, batch_size=20, num_workers=2):   # 3 of every 20 are real
        ...
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from rephase.data.base import Matrix, VolumeSlices
from rephase.data.order import exact_fraction, shared_epoch, shuffled
from rephase.errors import RequestError

Address = tuple[bool, int]
"""An item of a mixture by its source: whether it is real, and its index in that data set."""


def mix(
    real: VolumeSlices | MixedSlices,
    synthetic: VolumeSlices | MixedSlices,
    real_fraction: float = 0.15,
    seed: int = 0,
    num_slices: int | None = None,
) -> MixedSlices:
    """Mix two data sets.

    Parameters
    ----------
    real, synthetic
        `FastMRISlices`, `KSpaceSlices` or a mixture; each keeps its own transform.
    real_fraction
        Fraction of real slices, 0 to 1, interpreted as a decimal: 0.15 is exactly 15 of 100.
    seed
        Seed of selection and order.
    num_slices
        Number of slices in an epoch. Default: the largest without repeated slices. With more, slices repeat, each as
        often as any other of its set or once more.

    Raises
    ------
    RequestError
        If the fraction is not from 0 to 1, a set has no slices for it, or one is no data set of slices.
    """
    for name, slices in (("real", real), ("synthetic", synthetic)):
        require_slices(f"mix: {name}", slices)
    if not 0 <= real_fraction <= 1:
        raise RequestError(f"real_fraction {real_fraction}: expected 0 to 1")
    fraction = exact_fraction(real_fraction)
    for name, slices, share in (("real", real, fraction), ("synthetic", synthetic, 1 - fraction)):
        if share and not len(slices):
            raise RequestError(f"{name}: no slices, expected some, since they are {float(share):g} of the mixture")
    if num_slices is None:
        num_slices = longest(len(real), len(synthetic), fraction)
    if num_slices < 1:
        raise RequestError(
            f"num_slices {num_slices}: expected 1 or more; the smaller set has too few for this fraction"
        )
    return MixedSlices(real, synthetic, fraction, seed, num_slices)


def longest(num_real: int, num_synthetic: int, real_fraction: Fraction) -> int:
    """Return the largest number of slices of which this fraction is real, without repeated ones."""
    limits = [num_real / real_fraction] if real_fraction else []
    limits += [num_synthetic / (1 - real_fraction)] if real_fraction < 1 else []
    return int(min(limits))


class MixedSlices(Dataset[Any]):
    """Real and synthetic slices, already shuffled; see `mix`.

    Of the first `n` items, `floor(n * real_fraction)` are real, so any consecutive items, such as a batch, are within
    one slice of that fraction. Read it in order (`KSpaceStream`; or no `shuffle`, `DistributedSampler(shuffle=False)`),
    or by `BucketBatchSampler`; in another order the fraction applies to the epoch only. `set_epoch` selects other
    slices in another order, also with `persistent_workers`.
    """

    def __init__(
        self,
        real: VolumeSlices | MixedSlices,
        synthetic: VolumeSlices | MixedSlices,
        real_fraction: Fraction,
        seed: int,
        num_slices: int,
    ) -> None:
        self.real, self.synthetic = real, synthetic
        self.real_fraction, self.seed, self.num_slices = real_fraction, seed, num_slices
        self._epoch = shared_epoch()
        self._selected: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def num_real(self) -> int:
        """Number of real slices in an epoch."""
        return self._real_before(self.num_slices)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch to read, also that of the transforms of both sets."""
        self._epoch[0] = epoch
        self.real.set_epoch(epoch)
        self.synthetic.set_epoch(epoch)

    def source(self, index: int | Address) -> Address:
        """Return whether an item is real, and its index in its data set; of such a pair, the pair."""
        if isinstance(index, tuple):
            return index
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        index = int(index) % len(self)
        before = self._real_before(index)
        is_real = self._real_before(index + 1) > before
        real, synthetic = self._choice()
        return is_real, int(real[before] if is_real else synthetic[index - before])

    def shape_codes(self) -> tuple[list[Matrix], NDArray[np.int64]]:
        """Return the distinct sizes, and for every item the index of its size."""
        real_shapes, real_codes = self.real.shape_codes()
        shapes, codes = self.synthetic.shape_codes()
        known = {shape: number for number, shape in enumerate(dict.fromkeys([*real_shapes, *shapes]))}
        of_real = np.array([known[shape] for shape in real_shapes], np.int64)[real_codes]
        of_synthetic = np.array([known[shape] for shape in shapes], np.int64)[codes]
        real, synthetic = self._choice()
        counts = self.num_real_of(np.arange(len(self) + 1))
        found = np.empty(len(self), np.int64)
        is_real = np.diff(counts) > 0
        found[is_real], found[~is_real] = of_real[real], of_synthetic[synthetic]
        return list(known), found

    def __len__(self) -> int:
        return self.num_slices

    def fingerprint(self) -> str:
        """Return a digest of sets, fraction, seed and length, by which a saved position is recognised."""
        share = f"{self.real_fraction} {self.seed} {self.num_slices}"
        parts = (self.real.fingerprint(), self.synthetic.fingerprint(), share)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def __getitem__(self, index: int | Address) -> Any:  # noqa: ANN401 - any value that the transform returns
        """Read one slice from its data set, by its number or as `source` returns it."""
        is_real, number = self.source(index)
        return self.real[number] if is_real else self.synthetic[number]

    def num_real_of(self, num_slices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of the first `n` items are real, for several `n`."""
        return np.array([self._real_before(int(number)) for number in num_slices], np.int64)

    def _real_before(self, index: int) -> int:
        return index * self.real_fraction.numerator // self.real_fraction.denominator

    def _choice(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the slices of this epoch from both sets; cached until the epoch changes."""
        epoch = int(self._epoch)
        if self._selected is None or self._selected[0] != epoch:
            real = sample(len(self.real), self.num_real, self.seed, epoch, 0)
            synthetic = sample(len(self.synthetic), self.num_slices - self.num_real, self.seed, epoch, 1)
            self._selected = epoch, real, synthetic
        return self._selected[1:]


def sample(available: int, wanted: int, *key: int) -> NDArray[np.int64]:
    """Sample slices, each as often as any other or once more: passes over all of them, each in another order."""
    rounds = [shuffled(available, *key, number) for number in range(-(-wanted // available) if wanted else 0)]
    return np.concatenate(rounds)[:wanted] if rounds else np.zeros(0, np.int64)


def require_slices(user: str, slices: Any) -> VolumeSlices | MixedSlices:  # noqa: ANN401 - checked here
    """Return a data set of slices as it is.

    Raises
    ------
    RequestError
        If it is something else, such as a `Subset` of torch, whose slices have no known sizes.
    """
    if not isinstance(slices, VolumeSlices | MixedSlices):
        raise RequestError(
            f"{user}: found {type(slices).__name__}; expected KSpaceSlices, FastMRISlices or a mixture; select slices "
            "by the filters of KSpaceSlices"
        )
    return slices
