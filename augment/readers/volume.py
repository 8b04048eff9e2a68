"""The result of every reader, a magnitude volume with geometry and acquisition facts; and checks of its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import VolumeFacts

PhaseEncode = Literal["row", "column", "assumed"]

CLIP_LIMIT = 0.05
"""Negative values up to this fraction of the maximum may be ringing from resampling; larger ones are errors."""


class Description(NamedTuple):
    """A volume as its headers describe it, in the corpus's axes.

    Attributes
    ----------
    shape
        Slices, height, width.
    spacing_mm
        Along the same axes; None if unknown.
    notes
        As `rephase.manifests.header.SeriesHeader.notes`.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Volume(VolumeFacts):
    """One magnitude volume in the corpus's axes, as read: not scaled, not clipped.

    Its facts (`rephase.facts.VolumeFacts`) are those of the manifest, else of the header.

    Attributes
    ----------
    magnitude
        float32, `(slice, height, width)`; height is readout, width is phase encoding. May still contain values that
        `rephase.pipeline.magnitude` refuses (negative or non-finite).
    spacing_mm
        Distance of neighbours along (slice, height, width); the slice distance is that of the slice centres.
    affine
        4 x 4, row-major: maps the index (slice, height, width, 1) to patient coordinates in mm, LPS.
    orientation
        Three letters, the patient direction (LPS letters) in which slice, height and width indices grow, e.g. `"SPL"`.
    transposed
        True if the displayed rows and columns were exchanged because phase was encoded along columns.
    phase_encode
        `"row"` or `"column"`: the displayed direction along which phase was encoded (DICOM's words); `"assumed"` if
        no header states it; the volume is then not transposed.
    source_sha256
        SHA-256 of the bytes that were read; for several files, of their digests in slice order.
    phase
        float32 radians of the same shape if the row names real phase, else None.
    segmentation
        uint8 of the same shape if the row names one, else None.
    acquisition
        Facts without identity that audits read, JSON values only: `image_type`, `acquired_matrix` (as
        [height, width] of the stored axes), `transfer_syntax`, `percent_sampling`, `bits_stored`, `source_format`, ...
    """

    magnitude: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...]
    orientation: str
    transposed: bool
    phase_encode: PhaseEncode
    source_sha256: str
    phase: NDArray[np.float32] | None = None
    segmentation: NDArray[np.uint8] | None = None
    acquisition: dict[str, Any] = field(default_factory=dict)


def refuse_vanished(values: NDArray[Any], largest: Callable[[], float], name: str) -> None:
    """Refuse a volume whose values all become zero in float32 or complex64.

    `largest` returns the largest modulus in the file; it is called only if all `values` are zero.

    Raises
    ------
    VolumeError
        `unsupported`.
    """
    if not values.any() and (found := largest()) > 0:
        raise VolumeError(
            "unsupported",
            f"{name}: values of at most {found:g}; expected 1e-38 or more, the least of float32; store them in another "
            "unit",
        )


def check_limit(num_bytes: int, limit_bytes: int | None, name: str) -> None:
    """Check that a volume fits into the memory limit, before allocating memory."""
    if limit_bytes is not None and num_bytes > limit_bytes:
        raise VolumeError(
            "too_large",
            f"{name}: needs {num_bytes / 1e6:.1f} MB to read; expected at most {limit_bytes / 1e6:.1f} MB; "
            "give workers more memory",
        )
