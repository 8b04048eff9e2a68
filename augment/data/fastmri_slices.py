"""fastMRI's own HDF5 files as a torch data set, with the items of `KSpaceSlices`: the real part of hybrid training."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.data.base import Matrix, Parts, Transform, VolumeSlices, origin_attributes
from rephase.errors import RequestError, VolumeError
from rephase.facts import FACTS, facts_where
from rephase.formats import READERS
from rephase.hdf5_files import open_hdf5
from rephase.ismrmrd_header import FastmriFacts, fastmri_facts
from rephase.text import one_line

_TARGETS = {"singlecoil": "reconstruction_esc", "multicoil": "reconstruction_rss"}
_UNKNOWN: dict[str, Any] = {"text": "", "number": math.nan, "flag": False}
_SUFFIXES = READERS["hdf5"].suffixes


@dataclass(frozen=True)
class _File:
    """Header and sizes of one file."""

    num_slices: int
    matrix: Matrix
    attributes: dict[str, Any]
    own: dict[str, Any]
    has_mask: bool
    has_target: bool
    others: frozenset[str]


class FastMRISlices(VolumeSlices):
    """Slices of a folder of fastMRI files, file by file in the order of their names.

    Items are those of `rephase.KSpaceSlices`; `fname` is the name of the file. `attrs` has the same keys, and with a
    transform all other attributes of the file, as in fastMRI's `SliceDataset`. Without a transform, a missing mask is
    all ones and a missing target all NaN. Each file is opened once for its header when the data set is created, and
    then again for every slice, so that the data set may be forked, pickled and spawned. Other files are ignored.

    Parameters
    ----------
    folder
        Folder of `.h5` files.
    challenge
        `singlecoil` or `multicoil`: the target to read. Default: by the k-space of each file.
    transform
        Called with the six parts of the tuple; returns the item.
    maps, segmentation
        Add `sens_maps` or `segmentation` of the file to `attrs`, as `rephase.KSpaceSlices`: exports have them.

    Raises
    ------
    RequestError
        If the folder does not exist or has no such file, or a file lacks maps or segmentation that are wanted.
    VolumeError
        If a file is not in fastMRI's format; the message names it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        challenge: Literal["singlecoil", "multicoil"] | None = None,
        transform: Transform | None = None,
        *,
        maps: bool = False,
        segmentation: bool = False,
    ) -> None:
        self.folder = Path(folder).absolute()
        if challenge not in (None, *_TARGETS):
            raise RequestError(f"challenge {challenge!r}: expected singlecoil or multicoil")
        if not self.folder.is_dir():
            raise RequestError(f"{self.folder}: no such folder; expected one of fastMRI's .h5 files")
        self.challenge = challenge
        self._paths = sorted(path for path in self.folder.iterdir() if path.suffix in _SUFFIXES)
        if not self._paths:
            raise RequestError(f"{self.folder}: no .h5 file; expected fastMRI's")
        self._files = [_describe(path, challenge) for path in self._paths]
        self._wanted = [name for name, wanted in (("sens_maps", maps), ("segmentation", segmentation)) if wanted]
        for name in self._wanted:
            without = [
                path.name for path, file in zip(self._paths, self._files, strict=True) if name not in file.others
            ]
            if without:
                raise RequestError(
                    f"{self.folder}: {len(without)} of {len(self._paths)} files have no {name}, such as {without[0]}; "
                    "expected one each; move them to another folder, or open it without"
                )
        super().__init__([file.num_slices for file in self._files], transform)

    @property
    def volumes(self) -> list[str]:
        """Names of the files, in order."""
        return [path.name for path in self._paths]

    def volume_name(self, volume: int) -> str:
        """Return the name of a file by its number."""
        return self._paths[volume].name

    def volume_matrix(self, volume: int) -> Matrix:
        """Return coils, height, width, and height and width of the target of a file by its number."""
        return self._files[volume].matrix

    def volume_attributes(self, volume: int) -> dict[str, Any]:
        """Return `attrs` of a file by its number."""
        file = self._files[volume]
        return dict(file.attributes) if self.transform is None else file.own | file.attributes

    def read_parts(self, volume: int, slice_index: int) -> Parts:
        """Read one slice of a file by its number.

        Raises
        ------
        VolumeError
            If it cannot be read; the message names file and slice.
        """
        path, described = self._paths[volume], self._files[volume]
        try:
            with h5py.File(path, "r") as file:
                kspace: NDArray[np.complex64] = file["kspace"][slice_index]
                mask = np.asarray(file["mask"], np.float32) if described.has_mask else None
                key = _target(kspace.ndim, self.challenge)
                target = file[key][slice_index] if described.has_target else None
                others = {name: file[name][slice_index] for name in self._wanted}
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise VolumeError(
                "unreadable", f"{path}: slice {slice_index}: {one_line(error)}; expected fastMRI's; fetch it again"
            ) from error
        return Parts(kspace, mask, target, self.volume_attributes(volume) | others)


def _target(slice_axes: int, challenge: str | None) -> str:
    return _TARGETS[challenge or ("singlecoil" if slice_axes == 2 else "multicoil")]


def _describe(path: Path, challenge: str | None) -> _File:
    try:
        with open_hdf5(path) as file:
            shape = tuple(int(size) for size in file["kspace"].shape)
            if len(shape) not in (3, 4) or file["kspace"].dtype != np.complex64:
                raise ValueError(f"kspace is {file['kspace'].dtype} {shape}, not complex64 with three or four axes")
            own = {key: _plain(value) for key, value in file.attrs.items()}
            facts = fastmri_facts(file["ismrmrd_header"][()], own.get("acquisition"))
            if not (facts.encoding_size and facts.recon_size and facts.padding):
                raise ValueError("ismrmrd_header does not state matrix sizes and encoding limits")
            key = _target(len(shape) - 1, challenge)
            size = file[key].shape[1:] if key in file else facts.recon_size[:2]
            has_mask, has_target = "mask" in file, key in file
            others = frozenset({"sens_maps", "segmentation"} & set(file))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise VolumeError(
            "unreadable",
            f"{path}: {one_line(error)}; expected fastMRI's kspace and ismrmrd_header; take it out of the folder",
        ) from error
    coils = shape[1] if len(shape) == 4 else 0
    matrix = (coils, shape[-2], shape[-1], int(size[0]), int(size[1]))
    # as in fastMRI's SliceDataset, attributes of the file take precedence over its header
    attributes = _attributes(facts, path)
    attributes |= {key: value for key, value in own.items() if key in attributes}
    # an export of a corpus states its generator; all other files are measured
    origin = str(own.get("phase_generator", "real")), int(own.get("replica", 0)), str(attributes["coil_array"])
    attributes |= origin_attributes(*origin)
    return _File(shape[0], matrix, attributes, own, has_mask, has_target, others)


def _attributes(facts: FastmriFacts, path: Path) -> dict[str, Any]:
    """Return the keys of `KSpaceSlices`, with NaN or an empty text for values that the file lacks."""
    return {
        "max": math.nan,
        "norm": math.nan,
        "patient_id": path.stem,
        "acquisition": "",
        **{name: getattr(facts, name) or _UNKNOWN[FACTS[name].kind] for name in facts_where(in_index=True)},
        "spacing_mm": facts.spacing_mm or (math.nan, math.nan, math.nan),
        "encoding_size": facts.encoding_size,
        "recon_size": facts.recon_size,
        "padding_left": facts.padding and facts.padding[0],
        "padding_right": facts.padding and facts.padding[1],
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of a file's attributes
    """Convert an attribute to collatable types, as in `KSpaceSlices`: Python numbers, tuples, str."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value
