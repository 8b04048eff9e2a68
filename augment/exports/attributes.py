"""The attributes of an exported volume: fastMRI's, all others of the receipt, and the stamp of the export."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rephase.errors import VolumeError
from rephase.facts import FACTS, Kind, facts_where

STAMP_KEY = "rephase_export"
"""Attribute with the stamp by which a later export recognises its file."""

_SAME = (
    "patient_id", "max", "norm", "orientation", "transposed", "phase_encode", "scale", "phase_generator", "nfe",
    "noise_sigma", "oversampling", "num_slices", "seed", "replica", "source_sha256", "recipe_hash",
)  # fmt: skip
_ARRAYS = ("spacing_mm", "affine")
_DOCUMENTS = ("audit", "columns", "environment")

_MOST_BYTES = 60_000
"""HDF5 stores attributes in the object header, which is limited to 64 KiB."""


def fastmri_acquisition(name: str) -> str:
    """Return the name of an acquisition in a form that fastMRI's readers accept.

    fastMRI has axial brains, `AX...`, and knees, `..._FBK`; mrpro rejects the entire directory if one name has another
    form (`mrpro.phantoms.fastmri.FastMRIImageDataset`). So the suffix is appended to every other name: `CORPD` becomes
    fastMRI's own `CORPD_FBK`.
    """
    return name if name.startswith("AX") or name.endswith("FBK") else f"{name}_FBK"


def export_attributes(name: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an exported HDF5 file.

    Matrix sizes and paddings are in the ISMRMRD header instead, where fastMRI's readers expect them.

    Returns
    -------
    attributes
        Unknown text is empty and an unknown number is NaN; `audit`, `columns` and `environment` are JSON.

    Raises
    ------
    VolumeError
        If kept manifest columns are too long for an attribute.
    """
    attributes: dict[str, Any] = {"acquisition": fastmri_acquisition(receipt["acquisition"])}
    attributes |= {key: receipt[key] for key in _SAME}
    for key in facts_where(in_receipt=True, in_exports=True):
        if key in receipt:
            attributes[key] = _attribute(FACTS[key].kind, receipt[key])
    attributes |= {key: np.asarray(receipt[key], np.float64) for key in _ARRAYS}
    documents = {key: json.dumps(receipt[key], sort_keys=True) for key in _DOCUMENTS if key in receipt}
    for key, text in documents.items():
        if len(text.encode()) > _MOST_BYTES:
            raise VolumeError(
                "unsupported",
                f"volume {name}: {key} has {len(text.encode())} bytes; expected at most {_MOST_BYTES}, the size of an "
                "HDF5 attribute; export it as bart, or build it with fewer --keep-columns",
            )
    return attributes | documents


def _attribute(kind: Kind, value: Any) -> Any:  # noqa: ANN401 - JSON to an HDF5 attribute
    match kind:
        case "text":
            return value or ""
        case "number":
            return math.nan if value is None else float(value)
        case _:
            return np.asarray(value)


def read_stamp(path: Path) -> str | None:
    """Return the stamp of an exported HDF5 file, None if it was not written by an export.

    Raises
    ------
    OSError
        If it is not a complete HDF5 file.
    """
    with h5py.File(path, "r") as file:
        stamp = file.attrs.get(STAMP_KEY)
        return None if stamp is None else str(stamp)
