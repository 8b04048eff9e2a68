"""The receipt of one volume: the attributes of its group, which `check_receipt` checks.

The caller provides all but `STORE_KEYS`, which `rephase.corpus.store` adds when it commits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.facts import FACTS, facts_where

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}(@[1-9][0-9]*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CRCS = re.compile(r"([0-9a-f]{8})*")
_CRC_DIGITS = 8


STORE_KEYS = ("arrays", "checksums", "chunk_crc32c")
"""Added by the store, not by its caller."""

OPTIONAL_KEYS = ("name", "columns", "coils", "ome", *facts_where(in_receipt=True, always=False))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_magnitude(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_power_of_two(value: object) -> bool:
    return isinstance(value, (int, float)) and _is_positive(value) and math.frexp(value)[0] == 0.5


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_dict(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_count(item) and item > 0 for item in value)


def _is_spacing(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_positive(item) for item in value)


def _is_affine(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(line, list) and len(line) == 4 and all(map(_is_number, line)) for line in value)
    )


def _is_orientation(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[RLAPIS]{3}", value) is not None


def _one_of(*words: str) -> Callable[[object], bool]:
    return lambda value: value in words


_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "row_hash": (_is_digest, "64 hexadecimal digits"),
    "recipe_hash": (_is_digest, "64 hexadecimal digits"),
    "source_sha256": (_is_digest, "64 hexadecimal digits"),
    "environment": (_is_dict, "an object"),
    "acquisition": (_is_text, "a string"),
    "max": (_is_magnitude, "a finite number >= 0"),
    "norm": (_is_magnitude, "a finite number >= 0"),
    "patient_id": (_is_name, "a string that is not empty"),
    "spacing_mm": (_is_spacing, "three distances in mm > 0"),
    "affine": (_is_affine, "4 lists of 4 numbers"),
    "orientation": (_is_orientation, "three letters of R L A P I S"),
    "transposed": (lambda value: isinstance(value, bool), "true or false"),
    "phase_encode": (_one_of("row", "column", "assumed"), "row, column or assumed"),
    "scale": (_is_power_of_two, "a power of two"),
    "phase_generator": (_is_name, "a string that is not empty"),
    "nfe": (_is_count, "an integer >= 0"),
    "noise_sigma": (_is_magnitude, "a finite number >= 0"),
    "oversampling": (_is_positive, "a number > 0"),
    "encoding_size": (_is_size, "three integers [height, width, 1]"),
    "recon_size": (_is_size, "three integers [height, width, 1]"),
    "padding_left": (_is_count, "an integer >= 0"),
    "padding_right": (_is_count, "an integer >= 0"),
    "storage": (_one_of("kspace", "image+maps"), "kspace or image+maps"),
    "audit": (_is_dict, "an object"),
    "coils": (_is_dict, "an object"),
    "ome": (_is_dict, "an object"),
    "num_slices": (lambda value: _is_count(value) and value != 0, "an integer > 0"),
    "seed": (_is_int, "an integer"),
    "replica": (_is_count, "an integer >= 0"),
    **{name: (FACTS[name].accepts, FACTS[name].expected) for name in facts_where(in_receipt=True)},
}

REQUIRED_KEYS = tuple(key for key in _CHECKS if key not in OPTIONAL_KEYS)


def volume_name(volume_id: str, replica: int) -> str:
    """Return the name of a replica: the id itself for replica 0, else `<volume_id>@k`."""
    return volume_id if replica == 0 else f"{volume_id}@{replica}"


def is_volume_name(name: str) -> bool:
    """Check whether a volume may have this name."""
    return _NAME.fullmatch(name) is not None and not name.startswith((".", "__")) and name.lower() != "zarr.json"


def check_receipt(attributes: Mapping[str, Any]) -> list[str]:
    """List the problems of a receipt's attributes, one line each; empty if it is valid.

    Unknown keys are problems, too: no other information of the source may enter a corpus unnoticed.
    """
    problems = [f"attribute {key} is missing" for key in REQUIRED_KEYS if key not in attributes]
    for key, (check, expected) in _CHECKS.items():
        if key in attributes and not check(attributes[key]):
            problems.append(f"attribute {key} is {attributes[key]!r}; expected {expected}")
    known = {*REQUIRED_KEYS, *OPTIONAL_KEYS, *STORE_KEYS}
    problems += [f"attribute {key} is not part of format 1" for key in attributes if key not in known]
    if "name" in attributes and not is_volume_name(str(attributes["name"])):
        problems.append(f"attribute name is {attributes['name']!r}; expected the name of a volume")
    if "columns" in attributes and not _is_dict(attributes["columns"]):
        problems.append("attribute columns is not an object of strings")
    crcs = attributes.get("chunk_crc32c", {})
    if not _is_dict(crcs) or not all(isinstance(one, str) and _CRCS.fullmatch(one) for one in crcs.values()):
        problems.append("attribute chunk_crc32c is not an object of strings of eight hexadecimal digits per chunk")
    return problems


def chunk_crc(receipt: Mapping[str, Any], array: str, number: int) -> int | None:
    """Return the crc32c of a chunk by a receipt; None if the receipt is of a version that recorded none."""
    recorded = receipt.get("chunk_crc32c")
    if recorded is None:
        return None
    return int.from_bytes(bytes.fromhex(recorded.get(array, "")[_CRC_DIGITS * number :][:_CRC_DIGITS]), "little")


def target_statistics(target: NDArray[np.float32]) -> tuple[float, float]:
    """Compute `max` and `norm` (L2, in float64) of a target volume, in stored units.

    Each slice is summed on its own and the sums are added in order, so that a volume that is read slice by slice yields
    the same number.
    """
    squares = [float(np.sum(np.square(image, dtype=np.float64))) for image in target]
    return float(target.max()), math.sqrt(math.fsum(squares))


AUDIT_FLAGS: Mapping[str, str] = {
    "interpolated": "the stored matrix is larger than the acquired one: its outer k-space was never measured",
    "filtered": "the header names a filter or a resampling",
    "lossy": "the pixels were compressed with loss",
    "parallel_imaging": "the header names parallel imaging: part of k-space was computed",
    "partial_fourier": "by header or k-space, partial Fourier: part of k-space was computed or left empty",
    "compressed_sensing": "the header names compressed sensing: most of k-space was computed",
    "learned_reconstruction": "the header names a learned reconstruction",
    "spacing_assumed": "neither file nor manifest states the spacing: 1 mm was assumed",
    "clipped_negatives": "negative values of the source were set to zero",
    "template_grid": "the matrix and voxels of a template, to which images are resampled",
    "zero_filled": "the values have no detail beyond the acquired matrix, which is an estimate",
    "smoothed": "the spectrum falls as by a low-pass filter",
    "block_edges": "blocks of 8 x 8 pixels, as of JPEG",
    "quantised": "256 grey levels or fewer",
    "saturated": "many voxels have the largest value",
    "masked_background": "the background was set to one value",
    "hard_edges": "the background was set to one value beside bright tissue: skull-stripped, defaced, cut",
    "noise_floor": "the noise of the source is more than a twentieth of bright tissue",
    "cropped": "k-space was cut back to the acquired matrix (--on-crime crop)",
}
"""What the audit may find, with a few words for reports."""
