"""How much the audit of values finds: `python tests/benchmarks/pixel_audit.py ../shared/data [--every 3] [--fit]`.

Magnitudes of known history are made from measured complex images: single-coil k-space as it is, and the central part of
that of scanners, which is the acquisition of a smaller matrix, whatever filter or filling they applied outside. Prints
how many of the processed images are found and how many of the unprocessed are flagged; and the same if phase was
measured, in 4096 steps. With `--fit`, the weights of `rephase.pipeline.spectral_edge` are fitted again and printed, and
how well those find images that were left out, a fifth of the exams at a time.
"""

from __future__ import annotations

import argparse
import io
import sys
import zlib
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
from rephase.pipeline.spectral_edge import HISTORIES

_SLICES = 6
_LEVELS = 2000
EXPECTED = {
    "zero-filled 1.25x": "zero_filled", "zero-filled 1.5x": "zero_filled", "zero-filled 2x": "zero_filled",
    "Hann": "smoothed or zero_filled", "JPEG 75": "block_edges", "JPEG 50": "block_edges", "clipped": "saturated",
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


def histories(kspace: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32] | None]]:
    """Yield what may happen to an image, and magnitude and phase after it, in integers unless compressed."""
    height, width = kspace.shape[1:]
    image = ifft2c_array(kspace)
    plain = np.abs(image)
    yield "none", _stored(plain), _stored_phase(image)
    for factor in (1.25, 1.5, 2.0):
        sizes = (round(size * factor / 2) * 2 for size in (height, width))
        image = ifft2c_array(centre(kspace, *sizes))
        yield f"zero-filled {factor:g}x", _stored(np.abs(image)), _stored_phase(image)
    rows, columns = (0.5 + 0.5 * np.cos(2 * np.pi * (np.arange(size) - size // 2) / size) for size in (height, width))
    yield "Hann", _stored(np.abs(ifft2c_array(kspace * np.outer(rows, columns)))), None
    window = np.clip(plain / np.percentile(plain, 99.9) * 255, 0, 255).astype(np.uint8)
    yield "8 bit", window.astype(np.float32), None
    for quality in (75, 50):
        yield f"JPEG {quality}", np.stack([_jpeg(one, quality) for one in window]), None
    yield "clipped", np.minimum(_stored(plain), np.float32(round(float(np.percentile(_stored(plain), 99))))), None
    yield "masked", np.where(plain > 0.4 * np.percentile(plain, 99), _stored(plain), np.float32(0)), None


def _stored(image: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.round(image / image.max() * _LEVELS), dtype=np.float32)


def _stored_phase(image: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.round(np.angle(image) / np.pi * 2048) * (np.pi / 2048), dtype=np.float32)


def fit(figures: NDArray[np.float64], classes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Fit the weights of `spectral_edge.WEIGHTS` to figures `(image 8)` and numbers of `HISTORIES`."""
    share, ridge, tilt = np.array([3.0, 1.0, 1.5])[classes][:, None], 0.02, 0.75
    wanted, count = np.eye(3)[classes], len(figures)
    step = count / (1.5 * np.linalg.norm(figures, 2) ** 2 + 10 * ridge)
    weights = ahead = np.zeros((figures.shape[1], 3))
    pace = 1.0
    for _ in range(20_000):  # gradient descent with Nesterov's momentum
        scores = figures @ ahead
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        moved = ahead - step * (figures.T @ (share * (likely - wanted)) + ridge * ahead) / count
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead, weights, pace = moved + (pace - 1) / faster * (moved - weights), moved, faster
    weights = weights - weights.mean(axis=1, keepdims=True)
    weights[-1, HISTORIES.index("zero_filled")] += tilt  # zero-filled as soon as it is about as likely
    return np.asarray(weights.round(2))


def print_fit(rows: list[tuple[str, str, NDArray[np.float64]]]) -> None:
    """Fit weights to (name, history, figures), and print them and how much those of other exams find."""
    exams = np.array([zlib.crc32(name.split("_e")[0].encode()) % 5 for name, *_ in rows])
    words = {"none": "plain", "Hann": "smoothed"}
    classes = np.array([HISTORIES.index(words.get(history, "zero_filled")) for _, history, _ in rows])
    figures = np.stack([one for *_, one in rows])
    found = np.empty(len(rows), np.intp)
    for part in range(5):
        out = exams == part
        found[out] = (figures[out] @ fit(figures[~out], classes[~out])).argmax(axis=1)
    sys.stdout.write(f"weights\n{fit(figures, classes)}\nfound in exams that were left out\n")
    for history in dict.fromkeys(history for _, history, _ in rows):
        mine = found[[one == history for _, one, _ in rows]]
        shares = ", ".join(f"{name} {np.mean(mine == number):.0%}" for number, name in enumerate(HISTORIES))
        sys.stdout.write(f"{history:<18}{len(mine):>7}  {shares}\n")


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
    parser.add_argument("--fit", action="store_true", help="fit and cross-validate the weights of the classifier")
    arguments = parser.parse_args()
    fitted: list[tuple[str, str, NDArray[np.float64]]] = []
    counts: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for name, kspace in measured(arguments.folder, arguments.every):
        for history, magnitude, phase in histories(kspace):
            figures = measure_pixels(magnitude)
            totals[history] += 1
            counts.setdefault(history, Counter()).update(list(figures.flags()))
            if figures.edge is not None and (history in ("none", "Hann") or "zero" in history):
                fitted.append((name, history, figures.edge.vector()))
            if phase is not None:
                totals[f"{history}, phase"] += 1
                counts.setdefault(f"{history}, phase", Counter()).update(list(measure_pixels(magnitude, phase).flags()))
            if arguments.figures:
                sys.stdout.write(f"{name}\t{history}\t{figures}\n")
    sys.stdout.write(f"{'history':<26}{'images':>7}{'found':>8}  flags\n")
    for history, found in counts.items():
        expected = EXPECTED.get(history.removesuffix(", phase"))
        hits = sum(found[flag] for flag in expected.split(" or ")) if expected else 0
        share = f"{hits / totals[history]:.0%}" if expected else "-"
        listed = ", ".join(f"{flag} {found[flag] / totals[history]:.0%}" for flag in PIXEL_FLAGS if found[flag])
        sys.stdout.write(f"{history:<26}{totals[history]:>7}{share:>8}  {listed}\n")
    if arguments.fit:
        print_fit(fitted)


if __name__ == "__main__":
    main()
