"""What a compressed frame says of itself, before a decoder written in C is let loose on it.

A codestream has sizes of its own. Where they are not the header's, a decoder takes memory for what it was told, ends
the whole process, or fills the picture with something; so the few bytes that hold them are read here first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SOI, _SOS, _EOI = 0xD8, 0xDA, 0xD9
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_J2K_START = b"\xff\x4f\xff\x51"
_MOST_TILES = 65535
_JP2_BYTES = 4096


@dataclass(frozen=True)
class Codestream:
    """Rows, columns, samples per pixel and bits per sample, as the codestream has them."""

    rows: int
    columns: int
    samples: int
    bits: int


def read_codestream(data: bytes) -> Codestream:
    """Read the sizes of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream.

    Raises
    ------
    ValueError
        If it is none, breaks off before its sizes or contradicts itself.
    """
    start = data.find(_J2K_START, 0, _JP2_BYTES)
    try:
        return _jpeg_2000(data, start) if start >= 0 else _jpeg(data)
    except (struct.error, IndexError):
        raise ValueError("the compressed pixels break off in their header") from None


def _jpeg(data: bytes) -> Codestream:
    if data[:2] != b"\xff\xd8":
        raise ValueError("the compressed pixels do not begin as JPEG does")
    at, found = 2, None
    while True:
        if data[at] != 0xFF:
            raise ValueError("the header of the compressed pixels is damaged")
        marker = data[at + 1]
        at += 1
        if marker == 0xFF:  # fill bytes
            continue
        at += 1
        if marker in _NO_LENGTH:
            continue
        if marker in (_SOI, _EOI):
            raise ValueError("the compressed pixels have no picture")
        if marker == _SOS:
            break
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _FRAME_HEADERS:
            if found is not None:
                raise ValueError("the compressed pixels have two pictures")
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 2)
            found = Codestream(rows, columns, samples, bits)
        at += max(length, 2)
    if found is None:
        raise ValueError("the compressed pixels do not tell their size")
    return found


def _jpeg_2000(data: bytes, start: int) -> Codestream:
    sizes = struct.unpack_from(">8I", data, start + 8)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    depth, step_x, step_y = struct.unpack_from(">3B", data, start + 42)
    width, height, left, top, tile_width, tile_height, tiles_left, tiles_top = sizes
    if (step_x, step_y) != (1, 1) or left >= width or top >= height or not tile_width or not tile_height:
        raise ValueError("the sizes of the compressed pixels contradict each other")
    tiles = -(-max(width - tiles_left, 0) // tile_width) * -(-max(height - tiles_top, 0) // tile_height)
    if not 0 < tiles <= _MOST_TILES:
        raise ValueError(f"the compressed pixels have {tiles} tiles")
    return Codestream(height - top, width - left, samples, (depth & 0x7F) + 1)
