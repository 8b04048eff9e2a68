"""BART's .cfl and .hdr: a folder a volume, an array a pair of files, and `volume.json` with the attributes.

BART's dimensions are READ, PHS1, PHS2, COIL, MAPS, TE, ..., SLICE (13), column-major: height, width, 1, coils, 1, ...,
slices. Its `fft -u` over READ and PHS1 (bit mask 3) is the corpus's own transform.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.exports.attributes import fastmri_acquisition
from rephase.exports.source import SourceVolume
from rephase.exports.stamp import STAMP_KEY, Digests, Stamp

SUFFIX = ""
COMPRESSIONS = ("none",)
DOCUMENT = "volume.json"
_PHASE, _COIL, _SLICE, _NUM_DIMENSIONS = 1, 3, 13, 16
_LEFT_OUT = ("arrays", "checksums")


def check_package() -> None:
    """Do nothing: the format needs no package."""


def write(volume: SourceVolume, path: Path, stamp: Stamp, compression: str) -> Stamp:
    """Write one volume's folder; its `volume.json` with the stamp comes last.

    Every array becomes complex: BART knows no other numbers. `compression` is always `none`.
    """
    path.mkdir()
    digests = Digests()
    for array in volume.arrays:
        shape = volume.shape(array)
        dimensions = " ".join(map(str, bart_dimensions(shape)))
        (path / f"{array}.hdr").write_text(f"# Dimensions\n{dimensions} \n# Creator\nrephase\n", encoding="ascii")
        with (path / f"{array}.cfl").open("wb") as file:
            for values in digests.passing(array, volume.slices(array)):
                file.write(_column_major(values).tobytes())
    done = stamp.with_digests(digests)
    facts = {key: value for key, value in volume.receipt.items() if key not in _LEFT_OUT}
    facts |= {"name": volume.name, "acquisition": fastmri_acquisition(facts["acquisition"]), STAMP_KEY: done.to_json()}
    text = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False)
    (path / DOCUMENT).write_text(text + "\n", encoding="utf-8")
    return done


def bart_dimensions(shape: tuple[int, ...]) -> list[int]:
    """Give BART's 16 dimensions of an array of the corpus: `(slice [coil] height width)` or a mask `(width)`."""
    dimensions = [1] * _NUM_DIMENSIONS
    dimensions[_PHASE] = shape[-1]
    if len(shape) > 1:
        dimensions[0], dimensions[_SLICE] = shape[-2], shape[0]
    if len(shape) == 4:
        dimensions[_COIL] = shape[1]
    return dimensions


def _column_major(values: NDArray[Any]) -> NDArray[np.complex64]:
    """Height fastest, then width, then coil: the transpose of what the corpus has."""
    plane = values if values.ndim == 1 else np.swapaxes(values, -1, -2)
    return np.ascontiguousarray(plane, np.complex64)


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of a folder; None where it has none."""
    try:
        document = json.loads((path / DOCUMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Stamp.from_json(document.get(STAMP_KEY)) if isinstance(document, dict) else None


def is_foreign(path: Path) -> bool:
    """Tell whether a folder was written by someone else: an export's own appears whole, with its document."""
    return read_stamp(path) is None


def read_digests(path: Path) -> dict[str, str]:
    """Read a folder and give the checksums of what it holds, in the corpus's order and types.

    Raises
    ------
    OSError
        If it cannot be read, or a file is longer or shorter than its header says.
    """
    digests = Digests()
    for header in sorted(path.glob("*.hdr")):
        for values in _slices(header):
            digests.take(header.stem, _as_stored(header.stem, values))
    return digests.result()


def _slices(header: Path) -> Iterator[NDArray[np.complex64]]:
    dimensions = [int(word) for word in header.read_text(encoding="ascii").splitlines()[1].split()]
    height, width, coils, num_slices = (dimensions[axis] for axis in (0, _PHASE, _COIL, _SLICE))
    data = header.with_suffix(".cfl")
    if data.stat().st_size != 8 * height * width * coils * num_slices:
        raise OSError(f"{data}: has {data.stat().st_size} bytes, which is not what {header.name} says")
    values = np.memmap(data, np.complex64, "r", shape=(num_slices, coils, width, height))
    for plane in values:
        yield np.swapaxes(plane, -1, -2)


def _as_stored(array: str, values: NDArray[np.complex64]) -> NDArray[Any]:
    """The corpus's own type again; a coil axis or slice axis of 1 changes no byte."""
    if array in ("kspace", "sens_maps"):
        return values
    return np.ascontiguousarray(values.real).astype(np.uint8 if array == "segmentation" else np.float32)
