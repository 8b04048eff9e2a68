"""A volume's attributes in fastMRI's words and beside them all that the corpus knows, in types that HDF5 can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rephase.errors import VolumeError

_TEXTS = ("split", "contrast", "anatomy", "licence")
_NUMBERS = ("field_t", "te_ms")
_SAME = (
    "patient_id", "max", "norm", "orientation", "transposed", "phase_encode", "scale", "phase_generator", "nfe",
    "noise_sigma", "oversampling", "num_slices", "seed", "replica", "source_sha256", "recipe_hash",
)  # fmt: skip
_ARRAYS = ("spacing_mm", "affine")
_DOCUMENTS = ("audit", "columns", "environment")

_MOST_BYTES = 60_000
"""HDF5 keeps attributes in the header of an object, which has room for 64 KiB."""


def fastmri_acquisition(name: str) -> str:
    """Give an acquisition a name that fastMRI's readers accept.

    fastMRI knows axial brains, `AX...`, and knees, `..._FBK`, and mrpro refuses a whole folder with another name in it
    (`mrpro.phantoms.fastmri.FastMRIImageDataset`). So what is not axial gets the ending: `CORPD` becomes fastMRI's own
    `CORPD_FBK`.
    """
    return name if name.startswith("AX") or name.endswith("FBK") else f"{name}_FBK"


def export_attributes(name: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Give the attributes of an exported HDF5 file.

    Sizes and paddings are left to the ISMRMRD header, where fastMRI's readers look for them.

    Returns
    -------
    attributes
        Text is empty and a number NaN where the corpus does not know; `audit`, `columns` and `environment` are JSON.

    Raises
    ------
    VolumeError
        If columns that were kept are too long for an attribute.
    """
    attributes: dict[str, Any] = {"acquisition": fastmri_acquisition(receipt["acquisition"])}
    attributes |= {key: receipt[key] for key in _SAME}
    attributes |= {key: receipt[key] or "" for key in _TEXTS}
    attributes |= {key: math.nan if receipt[key] is None else float(receipt[key]) for key in _NUMBERS}
    attributes |= {key: np.asarray(receipt[key], np.float64) for key in _ARRAYS}
    documents = {key: json.dumps(receipt[key], sort_keys=True) for key in _DOCUMENTS if key in receipt}
    for key, text in documents.items():
        if len(text.encode()) > _MOST_BYTES:
            raise VolumeError(
                "unsupported",
                f"volume {name}: {key} takes {len(text.encode())} bytes; expected at most {_MOST_BYTES}, which an HDF5 "
                "attribute can hold; export it as bart, or build it with fewer --keep-columns",
            )
    return attributes | documents
