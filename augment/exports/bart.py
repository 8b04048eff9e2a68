"""BART's .cfl and .hdr: a directory per volume, a pair of files per array, and `volume.json` with the attributes.

BART's dimensions are READ, PHS1, PHS2, COIL, MAPS, TE, ..., SLICE (13), column-major: height, width, 1, coils, 1, ...,
slices. Its `fft -u` over READ and PHS1 (bit mask 3) is the corpus's own transform.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rephase.exports.attributes import STAMP_KEY, fastmri_acquisition
from rephase.exports.committed import CommittedVolume

DOCUMENT = "volume.json"
_PHASE, _COIL, _SLICE, _NUM_DIMENSIONS = 1, 3, 13, 16


def write(volume: CommittedVolume, path: Path, stamp: str, compression: str) -> None:
    """Write one directory: arrays as complex64, BART's only type; `volume.json` with the stamp last."""
    path.mkdir()
    for array in volume.arrays:
        dimensions = " ".join(map(str, bart_dimensions(volume.shape(array))))
        (path / f"{array}.hdr").write_text(f"# Dimensions\n{dimensions} \n# Creator\nrephase\n", encoding="ascii")
        with (path / f"{array}.cfl").open("wb") as file:
            for values in volume.slices(array):
                plane = values if values.ndim == 1 else np.swapaxes(values, -1, -2)  # column-major: height fastest
                file.write(np.ascontiguousarray(plane, np.complex64).tobytes())
    facts = {key: value for key, value in volume.receipt.items() if key not in ("arrays", "checksums")}
    facts |= {"name": volume.name, "acquisition": fastmri_acquisition(facts["acquisition"]), STAMP_KEY: stamp}
    text = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False)
    (path / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def bart_dimensions(shape: tuple[int, ...]) -> list[int]:
    """Return BART's 16 dimensions of an array of the corpus: `(slice [coil] height width)` or a mask `(width)`."""
    dimensions = [1] * _NUM_DIMENSIONS
    dimensions[_PHASE] = shape[-1]
    if len(shape) > 1:
        dimensions[0], dimensions[_SLICE] = shape[-2], shape[0]
    if len(shape) == 4:
        dimensions[_COIL] = shape[1]
    return dimensions


def read_stamp(path: Path) -> str | None:
    """Return the stamp of a directory; an export's directory is renamed into place with its document, so it has one."""
    try:
        stamp = json.loads((path / DOCUMENT).read_text(encoding="utf-8")).get(STAMP_KEY)
    except (OSError, ValueError, AttributeError):
        return None
    return stamp if isinstance(stamp, str) else None
