"""Check the values and shapes of a volume's arrays, and that k-space and target agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.layout import DTYPES, MAGNITUDE_TOLERANCE
from rephase.corpus.receipt import target_statistics
from rephase.numpy_fourier import ifft2c_array


def check_values(name: str, values: NDArray[Any]) -> Iterator[str]:
    """Yield the violations of format 1 in (a part of) an array: values that are not finite, negative zeros."""
    if values.dtype.kind not in "fc":
        return
    parts = np.ascontiguousarray(values).view(values.real.dtype)
    count = parts.size - int(np.count_nonzero(np.isfinite(parts)))
    if count:
        yield f"{name} has {count} values that are not finite"
    negative = int(np.count_nonzero(np.signbit(parts) & (parts == 0)))
    if negative:
        yield f"{name} has {negative} negative zeros; expected +0.0"


def check_shapes(shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Any]) -> list[str]:
    """List the contradictions between the shapes of a volume's arrays and its attributes."""
    problems = [f"array {name} is not part of format 1" for name in shapes if name not in DTYPES]
    coefficients = shapes.get("coil_coefficients")
    if coefficients is not None and (len(coefficients) != 4 or coefficients[1:] != (5, 5, 5) or coefficients[0] < 1):
        return [*problems, f"coil_coefficients has shape {coefficients}; expected (coil, 5, 5, 5)"]
    height, width, _ = attributes["recon_size"]
    kspace = shapes.get("kspace")
    if attributes["storage"] == "image+maps":
        image = shapes.get("image")
        if coefficients is None or image is None or kspace is not None:
            return [*problems, "storage is image+maps; expected image and coil_coefficients, and no kspace"]
        kspace = (image[0], coefficients[0], *attributes["encoding_size"][:2])
    if kspace is None or len(kspace) not in (3, 4) or min(kspace) < 1:
        return [*problems, f"kspace has shape {kspace}; expected (slice, [coil,] height, width)"]
    target = "reconstruction_esc" if len(kspace) == 3 else "reconstruction_rss"
    expected: dict[str, tuple[int, ...]] = {
        target: (kspace[0], height, width),
        "segmentation": (kspace[0], height, width),
        "image": (kspace[0], height, width),
        "coil_coefficients": (*kspace[1:-2], 5, 5, 5),
        "noise_covariance": kspace[1:-2] * 2,
        "sens_maps": kspace,
        "mask": kspace[-1:],
    }
    if attributes["num_slices"] != kspace[0]:
        problems.append(f"num_slices is {attributes['num_slices']}, kspace has {kspace[0]} slices")
    if list(attributes["encoding_size"][:2]) != list(kspace[-2:]):
        problems.append(f"encoding_size is {attributes['encoding_size']}, kspace is {kspace[-2]} x {kspace[-1]}")
    if target not in shapes:
        problems.append(f"{target} is missing; kspace has {len(kspace)} axes")
    samples = shapes.get("noise_scan")
    if samples is not None and (len(samples) != 2 or samples[0] != (kspace[1] if len(kspace) == 4 else 1)):
        problems.append(f"noise_scan has shape {samples}; expected (coil, sample)")
    for name, shape in shapes.items():
        if name in expected and shape != expected[name]:
            problems.append(f"{name} has shape {shape}; expected {expected[name]}")
        elif name.startswith("reconstruction_") and name != target:
            problems.append(f"{name} does not match a kspace of {len(kspace)} axes; expected {target}")
    return problems


NORM_TOLERANCE = 1e-6


class VolumeValues:
    """Checks the values of a volume slice by slice.

    `noise` returns the noise of a slice's coil images by its number; it is subtracted before they are compared.
    """

    def __init__(self, receipt: Mapping[str, Any], noise: Callable[[int], NDArray[np.complex64]] | None = None) -> None:
        self._receipt = receipt
        self._found: dict[str, list[str]] = {}
        self._worst = (0.0, 0)
        self._statistics: list[tuple[float, float]] = []
        self._whole = True
        fully_sampled = "mask" not in receipt["arrays"] and receipt["padding_left"] == 0
        fully_sampled = fully_sampled and receipt["padding_right"] == receipt["encoding_size"][1]
        fully_sampled = fully_sampled and not receipt.get("readout_start") and not receipt.get("elliptical")
        fully_sampled = fully_sampled or receipt["storage"] == "image+maps"  # the image is whole
        known = receipt["noise_sigma"] == 0 or receipt.get("noise_along") is not None
        lazy_noise = receipt["storage"] == "image+maps" and receipt.get("target_noise") == "noisy"
        self._plain = fully_sampled and known and not lazy_noise
        self._noise = noise if receipt["noise_sigma"] > 0 and receipt.get("target_noise") == "clean" else None
        self._stored = "image" if receipt["storage"] == "image+maps" else "k-space"

    def take_chunk(self, array: str, number: int, chunk: NDArray[Any] | None) -> None:
        """Check the values of one chunk."""
        if chunk is None:
            return
        problems = [f"slice {number}: {problem}" for problem in check_values(array, chunk)]
        if array.startswith("reconstruction_") and chunk.min() < 0:
            problems.append(f"slice {number}: {array} has negative values")
        if problems:
            self._found.setdefault(array, []).append(problems[0])

    def take_slice(self, number: int, kspace: NDArray[Any] | None, target: NDArray[Any] | None) -> None:
        """Compare one slice's k-space, or its image if that is what is stored, with its target."""
        if target is None:
            self._whole = False
            return
        self._statistics.append(target_statistics(target[None]))
        if kspace is not None and self._stored != "image":
            self._check_support(number, kspace)
        if kspace is None or not self._plain:
            return
        images = kspace if self._stored == "image" else ifft2c_array(kspace)
        if self._noise is not None and self._stored != "image":
            images = images - self._noise(number)
        image: NDArray[np.float32] = np.abs(images)
        if image.ndim == 3:
            image = np.sqrt(np.square(image).sum(axis=0))
        error = float(np.abs(centre_crop(image, target.shape) - target).max())
        self._worst = max(self._worst, (error, number))

    def _check_support(self, number: int, kspace: NDArray[Any]) -> None:
        receipt = self._receipt
        top, left, right = int(receipt.get("readout_start") or 0), receipt["padding_left"], receipt["padding_right"]
        outside = (kspace[..., :top, :], kspace[..., :left], kspace[..., right:])
        if any(np.any(part) for part in outside):
            self._found.setdefault("support", []).append(
                f"slice {number}: kspace has values outside of what was acquired; expected zeros"
            )

    def problems(self) -> list[str]:
        """List the problems of the entire volume, one line each."""
        found = []
        for problems in self._found.values():
            others = f" (and {len(problems) - 1} other slices have problems)" if len(problems) > 1 else ""
            found.append(problems[0] + others)
        error, number = self._worst
        allowed = MAGNITUDE_TOLERANCE * self._receipt["max"]
        if error > allowed:
            found.append(
                f"slice {number}: the magnitude of the {self._stored} is off by {error:.3g}; allowed {allowed:.3g}"
            )
        if self._whole and self._statistics:
            maximum = max(peak for peak, _ in self._statistics)
            norm = math.sqrt(math.fsum(part * part for _, part in self._statistics))
            if maximum != self._receipt["max"]:
                found.append(f"max is {self._receipt['max']!r}; the target's maximum is {maximum!r}")
            if abs(norm - self._receipt["norm"]) > NORM_TOLERANCE * norm:
                found.append(f"norm is {self._receipt['norm']!r}; the target's norm is {norm!r}")
        return found


def centre_crop(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the central part of an image `(... height width)`, as fastMRI crops an oversampled readout."""
    top, left = (image.shape[-2] - shape[-2]) // 2, (image.shape[-1] - shape[-1]) // 2
    return image[..., top : top + shape[-2], left : left + shape[-1]]
