"""What a volume's receipt says of it: where it came from, how it was made, what it looks like."""

from __future__ import annotations

from typing import Any

from augment.magnitude import PreparedMagnitude
from augment.receipts import target_statistics
from augment.recipe import row_hash
from augment.volume import Volume
from augment.workbench import Task, Workbench

_PLANES = {"S": "AX", "I": "AX", "R": "SAG", "L": "SAG", "A": "COR", "P": "COR"}


def make_attributes(
    task: Task, volume: Volume, prepared: PreparedMagnitude, audit: dict[str, Any], bench: Workbench
) -> dict[str, Any]:
    """Give the receipt's attributes, without what the store adds; nothing of the source but pseudonyms and hashes."""
    row, recipe = task.row, bench.recipe
    num_slices, height, width = prepared.stored.shape
    maximum, norm = target_statistics(prepared.stored)
    attributes: dict[str, Any] = {
        "row_hash": row_hash(row, volume.source_sha256),
        "recipe_hash": recipe.hash,
        "source_sha256": volume.source_sha256,
        "environment": bench.environment,
        "acquisition": _PLANES.get(volume.orientation[:1], "") + (volume.contrast or ""),
        "max": maximum,
        "norm": norm,
        "patient_id": row.subject_id or row.volume_id,
        "split": row.split,
        "contrast": volume.contrast,
        "anatomy": volume.anatomy,
        "field_t": volume.field_t,
        "te_ms": volume.te_ms,
        "spacing_mm": [float(step) for step in volume.spacing_mm],
        "affine": [[float(value) for value in line] for line in volume.affine],
        "orientation": volume.orientation,
        "transposed": volume.transposed,
        "phase_encode": volume.phase_encode,
        "scale": prepared.scale,
        "phase_generator": recipe.phase,
        "nfe": recipe.nfe,
        "noise_sigma": 0.0,
        "oversampling": 1.0,
        "encoding_size": [height, width, 1],
        "recon_size": [height, width, 1],
        "padding_left": 0,
        "padding_right": width,
        "storage": "kspace",
        "licence": row.licence,
        "audit": audit,
        "num_slices": num_slices,
        "seed": recipe.seed,
        "replica": task.replica,
    }
    if recipe.keep_columns:
        attributes["columns"] = dict(row.extra)
    return attributes
