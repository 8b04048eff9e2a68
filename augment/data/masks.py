"""Undersample slices as they are read, with masks identical bit by bit to those of the `fastmri` package.

Seeded with the file name, all slices of a volume have one mask in every epoch and process. In training, each slice has
another mask in each epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rephase.data.order import set_epoch_of, shared_epoch
from rephase.errors import RequestError
from rephase.scanner.masks import ColumnMask, seed_of

__all__ = ["ColumnMask", "MaskedSlices", "apply_mask", "seed_of"]


@dataclass(frozen=True)
class MaskedSlices:
    """A transform that undersamples k-space, and passes the tuple on.

    Masks are seeded with the file name, so that all slices of a volume have one mask in every epoch, for validation and
    test. With `training` they depend on `seed`, the epoch, the file name and the slice, and on nothing else: not on
    workers, ranks, or a resumption. `set_epoch` of the data set, mixture, sampler or stream reaches the transform, also
    in persistent workers.

    Attributes
    ----------
    mask
        Samples the masks.
    transform
        Called with the masked tuple; with None the tuple is returned.
    training
        Sample another mask for each slice in each epoch, as fastMRI's transforms with `use_seed=False`.
    seed
        Seed of the masks in training, 0 to 2**32 - 1.

    Raises
    ------
    RequestError
        If the seed is out of range.
    """

    mask: ColumnMask
    transform: Callable[..., Any] | None = None
    training: bool = False
    seed: int = 0
    _epoch: Tensor = field(default_factory=shared_epoch, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"seed {self.seed}: expected 0 to {2**32 - 1}")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the masks in training, also of a `transform` that has epochs."""
        self._epoch[0] = epoch
        set_epoch_of(self.transform, epoch)

    def __call__(
        self,
        kspace: NDArray[np.complex64],
        mask: NDArray[np.float32] | None,
        target: NDArray[np.float32] | None,
        attrs: dict[str, Any],
        fname: str,
        slice_index: int,
    ) -> Any:  # noqa: ANN401 - any value that the transform returns
        """Mask one slice; columns that were not acquired, or that the volume's own mask omits, remain unsampled."""
        seed = seed_of(fname)
        if self.training:
            seed = (self.seed, int(self._epoch) % 2**32, slice_index, *seed)
        drawn = self.mask(kspace.shape[-1], seed)
        drawn[: attrs["padding_left"]] = 0
        drawn[attrs["padding_right"] :] = 0
        if mask is not None:
            drawn *= mask
        parts = (apply_mask(kspace, drawn), drawn, target, attrs, fname, slice_index)
        return parts if self.transform is None else self.transform(*parts)


def apply_mask(kspace: NDArray[np.complex64], mask: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Set the columns that are not sampled to +0.0.

    Multiplication alone would leave -0.0 for negative values, and the signs would reveal the masked values.

    Parameters
    ----------
    kspace
        `(*batch height width)`.
    mask
        `(width)`, 1 or 0.
    """
    return np.where(mask != 0, kspace, np.complex64(0)) + np.complex64(0)  # also for a -0.0 that was sampled
