"""The ISMRMRD header of a volume, as XML that fits the schema of ISMRMRD 1.x.

x is readout, the height here; y is phase encoding, the width; z is the slice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rephase.errors import VolumeError
from rephase.manifests.record import CONTRASTS

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
HERTZ_PER_TESLA = 42_577_478.518
"""Of the proton, CODATA 2018."""

_MOST = 65_535


def ismrmrd_header(name: str, receipt: Mapping[str, Any], num_coils: int) -> bytes:
    """Write the header.

    Parameters
    ----------
    name
        The volume, for messages.
    receipt
        Its attributes.
    num_coils
        Receiver channels, at least 1.

    Returns
    -------
    xml
        UTF-8. The resonance frequency, which the schema demands, is 0 where the field strength is not known. Columns
        `padding_left` to `padding_right` count as acquired, the centre of k-space lies at `width // 2`.

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
            "which is what ISMRMRD can count; export it as bart",
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


@dataclass(frozen=True)
class FastmriFacts:
    """Facts of one file; None where it does not say."""

    spacing_mm: tuple[float, float, float] | None = None
    recon_size: tuple[int, int] | None = None
    te_ms: float | None = None
    field_t: float | None = None
    contrast: str | None = None


def fastmri_facts(header: bytes | str | None, attributes: Mapping[str, Any]) -> FastmriFacts:
    """Read the facts out of the ISMRMRD header and the attributes.

    Only a few plain numbers are wanted, so the XML is searched, not parsed: no entity of a hostile file is expanded.
    """
    text = header.decode("utf-8", "replace") if isinstance(header, bytes) else header or ""
    recon = _element(text, "reconSpace")
    sizes = _triple(_element(recon, "matrixSize"))
    view_mm = _triple(_element(recon, "fieldOfView_mm"))
    spacing = None
    if sizes and view_mm and min(*sizes, *view_mm) > 0:
        # x is readout, which is the height here; z of one slice is its thickness.
        spacing = (view_mm[2] / sizes[2], view_mm[0] / sizes[0], view_mm[1] / sizes[1])
    return FastmriFacts(
        spacing_mm=spacing,
        recon_size=(int(sizes[0]), int(sizes[1])) if sizes else None,
        te_ms=_number(_element(text, "TE")),
        field_t=_number(_element(text, "systemFieldStrength_T")),
        contrast=_contrast(attributes.get("acquisition")),
    )


def _contrast(acquisition: object) -> str | None:
    """Read the contrast out of a name such as AXT1POST or CORPDFS_FBK: the plane, then what is measured."""
    name = acquisition.upper() if isinstance(acquisition, str) else ""
    rest = next((name.removeprefix(plane) for plane in _PLANES if name.startswith(plane)), "")
    return next((contrast for contrast in _BY_LENGTH if rest.startswith(contrast.upper())), None)


def _element(text: str, name: str) -> str:
    # Two searches: one pattern for both tags would look for an end from every beginning, for hours in a hostile file.
    start = re.search(rf"<(?:\w+:)?{name}>", text)
    end = re.compile(rf"</(?:\w+:)?{name}>").search(text, start.end()) if start else None
    return text[start.end() : end.start()] if start and end else ""


def _triple(text: str) -> tuple[float, float, float] | None:
    x, y, z = (_number(_element(text, axis)) for axis in "xyz")
    return None if x is None or y is None or z is None else (x, y, z)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < np.inf else None


_NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"


def _header_sizes(header: bytes | str) -> dict[str, Any]:
    """Sizes and padding, as fastMRI computes them from the header."""
    if "<!DOCTYPE" in (header.decode("utf-8", "replace") if isinstance(header, bytes) else header):
        raise ValueError("its header declares entities, which no ISMRMRD header has")
    root = ElementTree.fromstring(header)  # noqa: S314 - without a DOCTYPE there is no entity to expand

    def number(*names: str) -> int:
        found = root.find(".//" + "//".join(_NAMESPACE + name for name in names))
        if found is None or found.text is None:
            raise ValueError(f"its header has no {'/'.join(names)}")
        return int(found.text)

    encoding = tuple(number("encoding", "encodedSpace", "matrixSize", axis) for axis in "xyz")
    recon = tuple(number("encoding", "reconSpace", "matrixSize", axis) for axis in "xyz")
    limits = ("encoding", "encodingLimits", "kspace_encoding_step_1")
    left = encoding[1] // 2 - number(*limits, "center")
    right = left + number(*limits, "maximum") + 1
    return {"padding_left": left, "padding_right": right, "encoding_size": encoding, "recon_size": recon}
