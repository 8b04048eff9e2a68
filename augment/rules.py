"""The rules that a volume's arrays keep one by one: allowed values, and shapes that agree with the receipt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.layout import DTYPES


def array_faults(name: str, values: NDArray[Any]) -> Iterator[str]:
    """Name values that format 1 forbids in (a part of) an array: not finite, or a negative zero."""
    if values.dtype.kind not in "fc":
        return
    parts = np.ascontiguousarray(values).view(values.real.dtype)
    count = parts.size - int(np.count_nonzero(np.isfinite(parts)))
    if count:
        yield f"{name} has {count} values that are not finite"
    negative = int(np.count_nonzero(np.signbit(parts) & (parts == 0)))
    if negative:
        yield f"{name} has {negative} negative zeros; expected +0.0"


def shape_faults(shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Any]) -> list[str]:
    """List where the shapes of a volume's arrays contradict each other or the volume's attributes."""
    faults = [f"array {name} is not part of format 1" for name in shapes if name not in DTYPES]
    kspace = shapes.get("kspace")
    if kspace is None or len(kspace) not in (3, 4) or min(kspace) < 1:
        return [*faults, f"kspace has shape {kspace}; expected (slice, [coil,] height, width)"]
    height, width, _ = attributes["recon_size"]
    target = "reconstruction_esc" if len(kspace) == 3 else "reconstruction_rss"
    expected: dict[str, tuple[int, ...]] = {
        target: (kspace[0], height, width),
        "segmentation": (kspace[0], height, width),
        "sens_maps": kspace,
        "mask": kspace[-1:],
    }
    if attributes["num_slices"] != kspace[0]:
        faults.append(f"num_slices is {attributes['num_slices']}, kspace has {kspace[0]} slices")
    if list(attributes["encoding_size"][:2]) != list(kspace[-2:]):
        faults.append(f"encoding_size is {attributes['encoding_size']}, kspace is {kspace[-2]} x {kspace[-1]}")
    if target not in shapes:
        faults.append(f"{target} is missing; kspace has {len(kspace)} axes")
    for name, shape in shapes.items():
        if name in expected and shape != expected[name]:
            faults.append(f"{name} has shape {shape}; expected {expected[name]}")
        elif name.startswith("reconstruction_") and name != target:
            faults.append(f"{name} does not go with a kspace of {len(kspace)} axes; expected {target}")
    return faults
