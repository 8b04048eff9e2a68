"""The ISMRMRD header of a volume, as XML that fits the schema of ISMRMRD 1.x.

x is readout, the height here; y is phase encoding, the width; z is the slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from augment.errors import VolumeError

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
