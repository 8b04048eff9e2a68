"""Write and read the ISMRMRD header of a volume: XML by the schema of ISMRMRD 1.x.

x is readout, the height here; y is phase encoding, the width; z is the slice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from rephase.errors import VolumeError
from rephase.facts import CONTRASTS, VolumeFacts
from rephase.sequences import SPIN_ECHO

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
HERTZ_PER_TESLA = 42_577_478.518
"""Gyromagnetic ratio of the proton over 2 pi, CODATA 2018."""

_MOST = 65_535


def ismrmrd_header(name: str, receipt: Mapping[str, Any], num_coils: int) -> bytes:
    """Write the header.

    Parameters
    ----------
    name
        Name of the volume, for messages.
    receipt
        The receipt of the volume.
    num_coils
        Receiver channels, at least 1.

    Returns
    -------
    xml
        UTF-8. The resonance frequency, which the schema requires, is 0 if the field strength is unknown. Columns
        `padding_left` to `padding_right` are the acquired ones; the centre of k-space is at `width // 2`.

    Raises
    ------
    VolumeError
        If a size is larger than the format's 16 bits.
    """
    height, width, _ = receipt["encoding_size"]
    if max(height, width, receipt["num_slices"]) > _MOST:
        raise VolumeError(
            "unsupported",
            f"volume {name}: has {receipt['num_slices']} slices of {height} x {width}; expected at most {_MOST} each, "
            "the limit of ISMRMRD; export it as bart",
        )
    root = ElementTree.Element("ismrmrdHeader", xmlns=NAMESPACE)
    system = _child(root, "acquisitionSystemInformation")
    if receipt["field_t"] is not None:
        _text(system, "systemFieldStrength_T", receipt["field_t"])
    _text(system, "receiverChannels", num_coils)
    conditions = _child(root, "experimentalConditions")
    _text(conditions, "H1resonanceFrequency_Hz", round((receipt["field_t"] or 0) * HERTZ_PER_TESLA))
    encoding = _child(root, "encoding")
    for space, size in (("encodedSpace", "encoding_size"), ("reconSpace", "recon_size")):
        _add_space(_child(encoding, space), receipt[size], receipt["spacing_mm"])
    _add_limits(_child(encoding, "encodingLimits"), receipt)
    _text(encoding, "trajectory", "cartesian")
    if receipt["te_ms"] is not None:
        _text(_child(root, "sequenceParameters"), "TE", receipt["te_ms"])
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_space(space: ElementTree.Element, size: list[int], spacing_mm: list[float]) -> None:
    slice_mm, height_mm, width_mm = spacing_mm
    matrix = _child(space, "matrixSize")
    for axis, count in zip("xyz", (size[0], size[1], 1), strict=True):
        _text(matrix, axis, count)
    view = _child(space, "fieldOfView_mm")
    for axis, length in zip("xyz", (size[0] * height_mm, size[1] * width_mm, slice_mm), strict=True):
        _text(view, axis, length)


def _add_limits(limits: ElementTree.Element, receipt: Mapping[str, Any]) -> None:
    height, width, _ = receipt["encoding_size"]
    left, right = receipt["padding_left"], receipt["padding_right"]
    # fastMRI: padding_left = width // 2 - center, padding_right = padding_left + maximum + 1
    for name, maximum, center in (
        ("kspace_encoding_step_0", height - 1, height // 2),
        ("kspace_encoding_step_1", right - left - 1, width // 2 - left),
        ("slice", receipt["num_slices"] - 1, receipt["num_slices"] // 2),
    ):
        limit = _child(limits, name)
        for key, value in (("minimum", 0), ("maximum", maximum), ("center", center)):
            _text(limit, key, value)


def _child(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, name)


def _text(parent: ElementTree.Element, name: str, value: float | str) -> None:
    _child(parent, name).text = str(value)


_PLANES = ("AX", "COR", "SAG")
# longer names first: fastMRI's own are T1PRE, T1POST, T2, FLAIR, PD and PDFS
_BY_LENGTH = sorted((name for name in CONTRASTS if name != "other"), key=len, reverse=True)
_LARGEST_HEADER = 1 << 20
"""Characters; fastMRI's headers have some ten thousand."""


@dataclass(frozen=True)
class FastmriFacts(VolumeFacts):
    """Facts from the ISMRMRD header and the attributes of a fastMRI file; None if absent.

    Attributes
    ----------
    encoding_size, recon_size
        Matrix (x, y, z) of k-space and of the reconstruction.
    padding
        First column of k-space that was acquired, and the one after the last, as fastMRI computes them.
    spacing_mm
        (slice, height, width) of the reconstruction.
    """

    encoding_size: tuple[int, int, int] | None = None
    recon_size: tuple[int, int, int] | None = None
    padding: tuple[int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None


def fastmri_facts(header: object, acquisition: object) -> FastmriFacts:
    """Read the facts of a fastMRI file.

    Parameters
    ----------
    header
        The dataset `ismrmrd_header`, bytes or text. A header that is not well-formed XML is treated as empty.
    acquisition
        The attribute `acquisition`, such as AXT1POST or CORPDFS_FBK: the plane, then the contrast.
    """
    name = acquisition.upper() if isinstance(acquisition, str) else ""
    rest = next((name.removeprefix(plane) for plane in _PLANES if name.startswith(plane)), "")
    contrast = next((contrast for contrast in _BY_LENGTH if rest.startswith(contrast.upper())), None)
    # every acquisition of fastMRI's own names is a turbo spin echo; T2star and others are from exports of this package
    sequence = SPIN_ECHO if re.match(r"T1|T2(?!STAR)|PD|FLAIR", rest) else None
    root = _parse(header)
    if root is None:
        return FastmriFacts(contrast=contrast, sequence=sequence)
    encoding_size, _ = _space(root, "encodedSpace")
    recon_size, view_mm = _space(root, "reconSpace")
    spacing_mm = padding = None
    if recon_size and view_mm:  # x is readout, the height here; z of one slice is its thickness
        spacing_mm = (view_mm[2] / recon_size[2], view_mm[0] / recon_size[0], view_mm[1] / recon_size[1])
    center, maximum = (_number(root, f"kspace_encoding_step_1/{{*}}{key}") for key in ("center", "maximum"))
    if encoding_size and center is not None and maximum is not None:
        left = encoding_size[1] // 2 - int(center)
        padding = (left, left + int(maximum) + 1)
    te_ms, field_t = _number(root, "TE") or None, _number(root, "systemFieldStrength_T") or None
    facts: dict[str, Any] = {"te_ms": te_ms, "field_t": field_t, "contrast": contrast, "sequence": sequence}
    return FastmriFacts(encoding_size, recon_size, padding, spacing_mm, **facts)


def _parse(header: object) -> ElementTree.Element | None:
    text = header.decode("utf-8", "replace") if isinstance(header, bytes) else header
    # ISMRMRD headers have no DOCTYPE; rejecting one rules out entity expansion
    if not isinstance(text, str) or len(text) > _LARGEST_HEADER or "<!DOCTYPE" in text:
        return None
    try:
        return ElementTree.fromstring(text.encode())  # noqa: S314
    except ElementTree.ParseError:
        return None


def _space(
    root: ElementTree.Element, name: str
) -> tuple[tuple[int, int, int] | None, tuple[float, float, float] | None]:
    """Return matrix and field of view in mm of `encodedSpace` or `reconSpace`; None unless all three are above 0."""
    sizes, view_mm = (
        [_number(root, f"{name}/{{*}}{part}/{{*}}{axis}") or 0.0 for axis in "xyz"]
        for part in ("matrixSize", "fieldOfView_mm")
    )
    matrix = (int(sizes[0]), int(sizes[1]), int(sizes[2]))
    return matrix if min(matrix) > 0 else None, (view_mm[0], view_mm[1], view_mm[2]) if min(view_mm) > 0 else None


def _number(root: ElementTree.Element, path: str) -> float | None:
    """Return the number in the first element of a path, in any name space; None if it is negative or not finite."""
    try:
        number = float(root.findtext(f".//{{*}}{path}", ""))
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
