"""Classify NIfTI images: by intent, sidecar, name and values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.manifests.header import Kind
from rephase.readers.kinds import (
    kind_of_description,
    kind_of_intent,
    kind_of_name,
    kind_of_sidecar,
    kind_of_values,
    labels_of_values,
)
from rephase.readers.nifti.header import NiftiHeader
from rephase.readers.nifti.survey import Frame

_LABEL_FOLDER = re.compile(r"(labels?|masks|segmentations)(Tr|Ts|Val)?", re.IGNORECASE)
_MOST_LABEL = 255
_SURE = ("by its intent code", "by its fifth dimension, which holds vectors", "by its description")


def stated_kind(path: Path, header: NiftiHeader, sidecar: Mapping[str, Any]) -> tuple[Kind, str] | None:
    """Return the image type that header, sidecar or name state, and the evidence; None if none does."""
    claims: tuple[tuple[Kind | None, str], ...] = (
        (kind_of_intent(header.intent), _SURE[0]),
        (kind_of_intent(header.intent_name), "by the name of its intent"),
        ("vectors" if header.is_vector else None, _SURE[1]),
        (kind_of_description(header.description), _SURE[2]),
        (kind_of_sidecar(dict(sidecar)), "by its JSON sidecar"),
        (kind_of_name(path), "by its name"),
        ("label map" if _LABEL_FOLDER.fullmatch(path.parent.name) else None, "by its folder"),
    )
    for kind, evidence in claims:
        if kind is not None and kind != "magnitude":
            return kind, evidence
    return None


def kind_of_sample(header: NiftiHeader, sample: NDArray[Any]) -> tuple[Kind, str]:
    """Return the image type by a sample `(plane, y, x)` of scaled values, and the evidence."""
    if header.dtype.kind == "c":
        return "magnitude", "complex"
    first = max(0, len(sample) // 2 - 3)
    return kind_of_values(sample[first : first + 6]) or ("magnitude", "no other evidence")


def kind_of_labels(frame: Frame, sample: NDArray[Any]) -> tuple[Kind, str] | None:
    """Return `label map` and the evidence if an image is one, by all values of a frame and a sample; None if not.

    A row that names such an image by hand is trusted: a phantom without noise looks the same.
    """
    if np.iscomplexobj(sample) or frame.num_bad or frame.least == frame.most:
        return None
    found = labels_of_values(sample)
    few = frame.most <= (_MOST_LABEL if sample.min() == sample.max() else 1)
    if found is None and frame.whole and frame.least >= 0 and few:  # a small object off the sample
        found = f"whole numbers from {frame.least:g} to {frame.most:g}, nearly all of them {frame.least:g}"
    return None if found is None else ("label map", f"by its values: {found}")


def is_sure(kind: Kind, evidence: str) -> bool:
    """Check whether an image cannot be a magnitude, so that even a row that names it is refused."""
    return kind not in ("magnitude", "derived", "label map", "parametric map", "statistics") or evidence in _SURE
