"""Everything that the bytes of a corpus depend on: one recipe, one hash per row, one environment class."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rephase.corpus.layout import FORMAT, canonical_hash, corpus_attributes
from rephase.facts import FACTS, hashed_facts
from rephase.manifests.record import ManifestRow
from rephase.pipeline.magnitude import NegativeRule

ALGORITHM = 13
"""Incremented whenever a code change affects the bytes of a recipe."""

LATER = {
    8: "the phase of spin echoes grows with their echo time; build into a new corpus to have them refocused",
    9: "receipts lack the name of the volume and the checksums of its chunks, which loaders compare; build into a new "
    "corpus to have them",
    10: "the field is that of single slices, not of the volume; build into a new corpus to have phase that is coherent "
    "through slices",
    11: "phase noise has the level of the texture (spin echoes have that of this version); build into a new corpus to "
    "have that of the measurement",
    12: "receipts lack the findings of the audit of values, zero-filled images have phase beyond the acquired box, and "
    "smooth phase has the statistics of another fit; build into a new corpus to have those of this version, or use "
    "'rephase audit' for the first",
    13: "arrays lack the names of their axes and what viewers need to open them; build into a new corpus to have them",
}
"""What a corpus that was begun before an algorithm lacks."""

ALGORITHMS = (7, 8, 9, 10, 11, 12, ALGORITHM)
"""Versions that are still supported: a corpus of an earlier one is resumed and repaired with the same bytes."""

ROW_COLUMNS = ("volume_id", "subject_id", "slice_axis", "series", "echo", "frame", "dataset", "extra")
"""Columns that change the stored data, besides the facts. Not `path`: the source is identified by its bytes."""

COMPANION_COLUMNS = ("phase", "kspace", "segmentation")
"""Columns hashed only as set or not; the bytes of their files are part of the SHA-256 of the source."""


@dataclass(frozen=True)
class Tile:
    """How the generator is called: slices in a call, multiple to which sizes are padded, dtype, torch threads."""

    slices: int = 1
    multiple: int = 1
    dtype: str = "float32"
    threads: int = 1


_OPTIONAL = (
    "coils",
    "storage",
    "num_coils",
    "noise",
    "noise_covariance",
    "target",
    "prescan",
    "on_crime",
    "acquisition",
    "mask",
)
"""Options of the recipe that it omits if they are not set."""


@dataclass(frozen=True)
class Recipe:
    """Everything that changes the bytes of a corpus apart from its sources.

    Equal recipes produce equal arrays on machines of one environment class, whatever the batch size, the number of
    workers, the order of the rows or the number of restarts.

    Attributes
    ----------
    coils
        Value of `--coils`, with the SHA-256 of a bank instead of its path; None for single-coil k-space.
    storage
        Value of `--storage`, None for single-coil k-space.
    num_coils
        Coils of `coils`; 0 without.
    noise, target, prescan
        Values of the options; None without noise.
    acquisition, mask
        Checked settings of the options; None for all of k-space.
    on_crime
        Value of `--on-crime`; None for `warn`.
    noise_covariance
        `identity`, `head8`, or the numbers of a file: the real and the imaginary part of every entry.
    """

    phase: str
    nfe: int
    checkpoint_sha256: str | None
    seed: int
    negative: NegativeRule
    keep_columns: tuple[str, ...]
    tile: Tile
    share_field_by: str | None = None
    coils: str | None = None
    storage: str | None = None
    num_coils: int = 0
    noise: str | None = None
    noise_covariance: str | tuple[object, ...] | None = None
    target: str | None = None
    prescan: int | None = None
    on_crime: str | None = None
    acquisition: str | None = None
    mask: str | None = None
    format: int = FORMAT
    algorithm: int = ALGORITHM

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as stored in the attributes of a corpus."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.algorithm < 10:  # recipes of earlier versions lack it
            del document["share_field_by"]
        # recipes without these options keep the hash that they had before the options existed
        return {key: value for key, value in document.items() if value or key not in _OPTIONAL}

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return canonical_hash(self.to_json())

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of a corpus built by this recipe."""
        return corpus_attributes(self.to_json())


def row_hash(row: ManifestRow, source_sha256: str) -> str:
    """Return the hash of the columns of a row that change bytes, and of the bytes of its source.

    The position of the row in the manifest and the path of its file do not change it.
    """
    columns: dict[str, Any] = {name: getattr(row, name) for name in ROW_COLUMNS} | hashed_facts(row)
    columns |= {name: getattr(row, name) is not None for name in COMPANION_COLUMNS}
    # hashes of rows without these are those of earlier versions
    later = {"part": row.part, "axes": row.axes, "spacing_mm": row.spacing_mm and list(row.spacing_mm)}
    columns |= {name: value for name, value in later.items() if value is not None}
    return canonical_hash({"columns": columns, "source_sha256": source_sha256})


def row_fingerprint(row: ManifestRow) -> str:
    """Return the hash of a complete row, path included: a failed row is retried after any edit."""
    names = [name for name in row.__dataclass_fields__ if name != "line" and name not in FACTS]
    return canonical_hash({name: getattr(row, name) for name in names} | hashed_facts(row))
