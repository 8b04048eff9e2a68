"""How much the audit of values finds: `python tests/benchmarks/pixel_audit.py ../shared/data [--every 3]`.

Magnitudes of known history are made from measured complex images: single-coil k-space as it is, and the central part of
that of scanners, which is the acquisition of a smaller matrix, whatever filter or filling they applied outside. Prints
how many of the processed images are found and how many of the unprocessed are flagged.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rephase.diffusion.fourier import fft2c
from rephase.numpy_fourier import ifft2c_array
from rephase.pipeline.pixel_audit import PIXEL_FLAGS, measure_pixels

_SLICES = 6
_LEVELS = 2000
EXPECTED = {
    "zero-filled 1.25x": "zero_filled", "zero-filled 1.5x": "zero_filled", "zero-filled 2x": "zero_filled",
    "Hann": "smoothed", "JPEG 75": "block_edges", "JPEG 50": "block_edges", "clipped": "saturated",
    "8 bit": "quantised", "masked": "hard_edges",
}  # fmt: skip


def centre(kspace: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Cut the central `(height, width)` out of centred k-space, or fill it with zeros to this size."""
    out = np.zeros((len(kspace), height, width), kspace.dtype)
    sizes = [(min(new, old), new // 2, old // 2) for new, old in zip((height, width), kspace.shape[1:], strict=True)]
    (rows, a, b), (columns, c, d) = sizes
    top, left = rows // 2, columns // 2
    out[:, a - top : a - top + rows, c - left : c - left + columns] = kspace[
        :, b - top : b - top + rows, d - left : d - left + columns
    ]
    return out


def measured(folder: Path, every: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield names and centred k-space `(slice height width)` without filling and filter."""
    for path in sorted(folder.glob("raw/*.h5")):
        with h5py.File(path) as file:
            yield path.stem, file["kspace"][:]
    # parts of an image, and images that are in raw/ already, are left out
    paths = [path for path in sorted(folder.glob("complex/*/*_mag.nii.gz")) if path.name[:5] not in ("romeo", "ulf_6")]
    for path in paths[::every]:
        magnitude = nibabel.load(path).get_fdata(dtype=np.float32)
        phase = nibabel.load(str(path).replace("_mag", "_phase")).get_fdata(dtype=np.float32)
        image = np.moveaxis(magnitude * np.exp(1j * phase), 2, 0)
        first = max((len(image) - _SLICES) // 2, 0)
        kspace = fft2c(torch.from_numpy(image[first : first + _SLICES].astype(np.complex64))).numpy()
        # GE's k-space of 256 lines is a box of 128
        share = 0.375 if kspace.shape[1] == 256 else 0.75
        yield path.name, centre(kspace, *(int(share * size) // 2 * 2 for size in kspace.shape[1:]))


def histories(kspace: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield what may happen to an image, and the image after it, in integers unless compressed."""
    height, width = kspace.shape[1:]
    plain = np.abs(ifft2c_array(kspace))
    yield "none", _stored(plain)
    for factor in (1.25, 1.5, 2.0):
        sizes = (round(size * factor / 2) * 2 for size in (height, width))
        yield f"zero-filled {factor:g}x", _stored(np.abs(ifft2c_array(centre(kspace, *sizes))))
    rows, columns = (0.5 + 0.5 * np.cos(2 * np.pi * (np.arange(size) - size // 2) / size) for size in (height, width))
    yield "Hann", _stored(np.abs(ifft2c_array(kspace * np.outer(rows, columns))))
    window = np.clip(plain / np.percentile(plain, 99.9) * 255, 0, 255).astype(np.uint8)
    yield "8 bit", window.astype(np.float32)
    for quality in (75, 50):
        yield f"JPEG {quality}", np.stack([_jpeg(one, quality) for one in window])
    yield "clipped", np.minimum(_stored(plain), np.float32(round(float(np.percentile(_stored(plain), 99)))))
    yield "masked", np.where(plain > 0.4 * np.percentile(plain, 99), _stored(plain), np.float32(0))


def _stored(image: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.round(image / image.max() * _LEVELS), dtype=np.float32)


def _jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.float32]:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data), dtype=np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="of the scanners' volumes, every n-th")
    parser.add_argument("--figures", action="store_true", help="print the figures of every image")
    arguments = parser.parse_args()
    counts: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for name, kspace in measured(arguments.folder, arguments.every):
        for history, magnitude in histories(kspace):
            figures = measure_pixels(magnitude)
            totals[history] += 1
            counts.setdefault(history, Counter()).update(list(figures.flags()))
            if arguments.figures:
                sys.stdout.write(f"{name}\t{history}\t{figures}\n")
    sys.stdout.write(f"{'history':<18}{'images':>7}{'found':>8}  flags\n")
    for history, found in counts.items():
        share = f"{found[EXPECTED[history]] / totals[history]:.0%}" if history in EXPECTED else "-"
        listed = ", ".join(f"{flag} {found[flag] / totals[history]:.0%}" for flag in PIXEL_FLAGS if found[flag])
        sys.stdout.write(f"{history:<18}{totals[history]:>7}{share:>8}  {listed}\n")


if __name__ == "__main__":
    main()
