"""The index's own checksum: a loader trusts the index alone, so one changed digit in it must not pass."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

from augment.layout import group_document

SEAL_KEY = "crc32"
_SEAL = re.compile(rb'"crc32": "([0-9a-f]{8})"')
_TAIL_BYTES = 4096
SEAL_BLANK = "0" * 8


def sealed_document(attributes: Mapping[str, Any]) -> bytes:
    """Give the document of a group with `crc32` among its attributes: of its bytes, with eight zeros in its place."""
    document = group_document({**attributes, SEAL_KEY: SEAL_BLANK}, indent=None)
    place = _place(document)
    return document[: place.start] + _checksum(document, place) + document[place.stop :]


def check_seal(document: bytes) -> None:
    """Compare a document with the checksum in it.

    Raises
    ------
    ValueError
        If it has none, or another one.
    """
    place = _place(document)
    if document[place.start : place.stop] != _checksum(document, place):
        raise ValueError("its bytes are not what its crc32 says")


def _place(document: bytes) -> slice:
    """Where the checksum stands: behind the columns, which are all but the whole document."""
    start = max(len(document) - _TAIL_BYTES, 0)
    found = list(_SEAL.finditer(document, start))
    if not found:
        raise ValueError("it has no crc32")
    return slice(found[-1].start(1), found[-1].end(1))


def _checksum(document: bytes, place: slice) -> bytes:
    view = memoryview(document)  # a slice of bytes would be a second copy of them
    checksum = zlib.crc32(view[: place.start])
    checksum = zlib.crc32(SEAL_BLANK.encode(), checksum)
    return f"{zlib.crc32(view[place.stop :], checksum):08x}".encode()
