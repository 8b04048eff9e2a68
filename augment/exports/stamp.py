"""What an exported volume says of itself: of which bytes it was made, how, and the checksums of what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

STAMP_KEY = "rephase_export"
VERSION = 1
"""Of the way in which exports are written; another one makes finished files stale."""


@dataclass(frozen=True)
class Stamp:
    """The mark of a finished export.

    Attributes
    ----------
    receipt_sha256
        Of the volume's receipt, which holds the checksums of all its bytes.
    options
        What else decides the file: format and compression.
    sha256
        Per array of the corpus: the SHA-256 of its values in the corpus's own order; and of the header.
    """

    receipt_sha256: str
    options: str
    sha256: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: object) -> Stamp | None:
        """Read what `to_json` wrote; None where the text is no stamp."""
        if not isinstance(text, str | bytes):
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def is_of(self, other: Stamp) -> bool:
        """Tell whether both are of the same bytes, made in the same way."""
        return replace(self, sha256={}) == replace(other, sha256={})

    def with_digests(self, digests: Digests) -> Stamp:
        """Give the stamp of an export that holds what was digested."""
        return replace(self, sha256=digests.result())


class Digests:
    """SHA-256 of several arrays, fed slice by slice."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def take(self, array: str, values: NDArray[Any] | bytes) -> None:
        """Feed the next slice of an array, or a text."""
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values).view(np.uint8).data
        self._hashes.setdefault(array, hashlib.sha256()).update(data)

    def passing(self, array: str, slices: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Feed slices while they pass on to whoever iterates."""
        for values in slices:
            self.take(array, values)
            yield values

    def result(self) -> dict[str, str]:
        """Give the digests so far, 64 hexadecimal digits each."""
        return {array: state.hexdigest() for array, state in self._hashes.items()}


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of a file; None where it has none or is no whole HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            return Stamp.from_json(file.attrs.get(STAMP_KEY))
    except OSError:
        return None


def is_foreign(path: Path) -> bool:
    """Tell whether this is a whole HDF5 file that no export wrote; a torn one is taken for ours, to be made again."""
    try:
        with h5py.File(path, "r") as file:
            return STAMP_KEY not in file.attrs
    except OSError:
        return False
