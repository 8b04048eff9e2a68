"""Decode the frames of one DICOM file to rescaled values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from rephase.errors import VolumeError
from rephase.readers.dicom.files import DicomFile, looking_into
from rephase.readers.dicom.frames import Frame
from rephase.text import one_line

_SOI, _SOS, _EOI = 0xD8, 0xDA, 0xD9


_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


_J2K_START = b"\xff\x4f\xff\x51"


_MOST_TILES = 65535


_JP2_BYTES = 4096


@dataclass(frozen=True)
class Codestream:
    """Rows, columns, samples per pixel and bits per sample of a codestream."""

    rows: int
    columns: int
    samples: int
    bits: int


def read_codestream(data: bytes) -> Codestream:
    """Read the sizes of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream.

    Raises
    ------
    ValueError
        If it is none, ends before its sizes or contradicts itself.
    """
    start = data.find(_J2K_START, 0, _JP2_BYTES)
    try:
        return _jpeg_2000(data, start) if start >= 0 else _jpeg(data)
    except (struct.error, IndexError):
        raise ValueError("the compressed pixels end within their header") from None


def _jpeg(data: bytes) -> Codestream:
    if data[:2] != b"\xff\xd8":
        raise ValueError("the compressed pixels are not JPEG")
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
            raise ValueError("the compressed pixels have no image")
        if marker == _SOS:
            break
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _FRAME_HEADERS:
            if found is not None:
                raise ValueError("the compressed pixels have two images")
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 2)
            found = Codestream(rows, columns, samples, bits)
        at += max(length, 2)
    if found is None:
        raise ValueError("the compressed pixels have no size")
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


@dataclass(frozen=True)
class Planes:
    """float32 `(frame, rows, columns)` in the requested order, and the number of padding pixels, set to 0."""

    values: NDArray[np.float32]
    num_padding: int


def transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """Return the encoding of the pixels; without a file header it is that of the elements."""
    stated = getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID")
    if stated:
        return UID(stated)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def check_encoding(dataset: pydicom.Dataset, file: DicomFile) -> None:
    """Check that a file has one grey value per pixel in an encoding that can be decoded.

    Raises
    ------
    VolumeError
        `unsupported`.
    """
    with looking_into(file):
        _check_encoding(dataset, file)


def _check_encoding(dataset: pydicom.Dataset, file: DicomFile) -> None:
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    bits = int(dataset.get("BitsAllocated") or 0)
    if not photometric.startswith("MONOCHROME") or samples != 1:
        raise VolumeError(
            "unsupported",
            f"{file}: {photometric} with {samples} samples per pixel; expected MONOCHROME1 or 2; convert it",
        )
    if bits not in (8, 16, 32):
        raise VolumeError("unsupported", f"{file}: {bits} bits allocated; expected 8, 16 or 32; convert it")
    if "ModalityLUTSequence" in dataset:
        raise VolumeError(
            "unsupported", f"{file}: values through a modality lookup table; expected slope and intercept; convert it"
        )
    stored = int(dataset.get("BitsStored") or bits)
    if not 0 < stored <= bits or int(dataset.get("HighBit") or stored - 1) != stored - 1:
        raise VolumeError(
            "unsupported",
            f"{file}: {stored} of {bits} bits stored, the highest {dataset.get('HighBit')}; expected the lower bits, "
            "the highest one less than their number; convert it",
        )
    syntax = transfer_syntax(dataset)
    if decoder_name(syntax) is None:
        raise VolumeError(
            "unsupported", f"{file}: transfer syntax {syntax.name} cannot be decoded; convert it (dcmconv)"
        )


def decode_frames(dataset: pydicom.Dataset, frames: Sequence[Frame]) -> Planes:
    """Decode the planes of one file.

    Parameters
    ----------
    dataset
        Of the file, with its pixel data.
    frames
        All from this file; tiles of a mosaic are cut out.

    Raises
    ------
    VolumeError
        `unreadable` where pixel data is missing, too short or damaged, `unsupported` as in `check_encoding`.
    """
    file = frames[0].file
    with looking_into(file):
        check_encoding(dataset, file)
        if "PixelData" not in dataset or not dataset.PixelData:
            raise VolumeError("unreadable", f"{file}: no pixel data; copy it again")
        _check_length(dataset, file)
        indices = sorted({frame.index for frame in frames})
        stored = dict(zip(indices, _decode(dataset, indices, file), strict=True))
        padding = _padding_range(dataset)
    planes = np.empty((len(frames), frames[0].rows, frames[0].columns), np.float32)
    num_padding = 0
    for plane, frame in zip(planes, frames, strict=True):
        top, left = frame.tile or (0, 0)
        values = stored[frame.index][top : top + frame.rows, left : left + frame.columns]
        with np.errstate(over="ignore"):  # infinities are refused, with their place, by `prepare_magnitude`
            plane[:] = values.astype(np.float64) * frame.slope + frame.intercept
        if padding is not None:
            outside = (values >= padding[0]) & (values <= padding[1])
            plane[outside] = 0.0
            num_padding += int(outside.sum())
    return Planes(planes, num_padding)


def _check_length(dataset: pydicom.Dataset, file: DicomFile) -> None:
    """Check that there are no more pixels than the header states: rows of the wrong length would go unnoticed.

    Padding after the last row, of zeros or less than a row, is common.
    """
    if transfer_syntax(dataset).is_encapsulated:
        return
    row = int(dataset.Columns) * (int(dataset.BitsAllocated) // 8)
    expected = row * int(dataset.Rows) * int(dataset.get("NumberOfFrames") or 1)
    if len(dataset.PixelData) >= expected + max(row, 2) and any(dataset.PixelData[expected:]):
        raise VolumeError(
            "unreadable",
            f"{file}: holds {len(dataset.PixelData)} bytes of pixels; expected {expected} by its header; copy it again",
        )


def _check_codestreams(dataset: pydicom.Dataset, indices: Sequence[int]) -> None:
    """Compare the compressed images with the header, before a native decoder reads them.

    Raises
    ------
    ValueError
        Where they contradict each other.
    """
    syntax = transfer_syntax(dataset)
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    for index in indices:
        found = read_codestream(get_frame(dataset.PixelData, index, number_of_frames=count))
        stated = (int(dataset.Rows), int(dataset.Columns), 1)
        if (found.rows, found.columns, found.samples) != stated or found.bits > int(dataset.BitsAllocated):
            raise ValueError(
                f"{found.rows}x{found.columns} of {found.samples} x {found.bits} bits are compressed; the header says "
                f"{stated[0]}x{stated[1]} of {dataset.BitsAllocated} bits"
            )


def decoder_name(syntax: UID) -> str | None:
    """Return the decoder of a transfer syntax: "" where none is needed, None where none exists.

    The choice is not left to pydicom, which takes any installed one, whatever its licence.
    """
    if not syntax.is_transfer_syntax or syntax.is_private:
        return None
    if not syntax.is_encapsulated:
        return ""
    if syntax == RLELossless:
        return "pydicom"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return None
    return "gdcm" if "gdcm" in decoder.available_plugins else None


def _decode(dataset: pydicom.Dataset, indices: Sequence[int], file: DicomFile) -> list[NDArray[np.integer]]:
    syntax = transfer_syntax(dataset)
    expected = (int(dataset.Rows), int(dataset.Columns))
    try:
        _check_codestreams(dataset, indices)
        decoded = get_decoder(syntax).iter_array(
            dataset, indices=indices, raw=True, decoding_plugin=decoder_name(syntax) or ""
        )
        arrays = [_used_bits(array, dataset, syntax) for array, _ in decoded]
    except (
        ValueError, TypeError, RuntimeError, EOFError, AttributeError, IndexError, NotImplementedError, struct.error,
    ) as error:  # fmt: skip
        raise VolumeError(
            "unreadable", f"{file}: pixel data is truncated or damaged ({one_line(error)}); copy it again"
        ) from error
    if len(arrays) != len(indices) or any(array.shape != expected for array in arrays):
        raise VolumeError(
            "unreadable", f"{file}: {len(arrays)} of {len(indices)} frames could be decoded; copy it again"
        )
    return arrays


def _used_bits(array: NDArray[np.integer], dataset: pydicom.Dataset, syntax: UID) -> NDArray[np.integer]:
    """Clear the bits above BitsStored, where older files store overlays, and extend the sign."""
    unused = array.dtype.itemsize * 8 - int(dataset.get("BitsStored") or array.dtype.itemsize * 8)
    if unused <= 0 or syntax.is_encapsulated:
        return array
    native = array.astype(array.dtype.newbyteorder("="))
    cleared: NDArray[np.integer] = (native << unused) >> unused
    return cleared


def _padding_range(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the range of stored padding values, from PixelPaddingValue to PixelPaddingRangeLimit."""
    ends = [dataset.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [_as_stored(int.from_bytes(end, "little") if isinstance(end, bytes) else int(end), dataset) for end in ends
             if end is not None and end != ""]  # fmt: skip
    return (min(known), max(known)) if known and ends[0] is not None else None


def _as_stored(value: int, dataset: pydicom.Dataset) -> int:
    """Convert a padding value to the sign of the pixels: many files write a signed one as unsigned, or vice versa."""
    bits = int(dataset.BitsAllocated)
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    wrapped = value % (1 << bits)
    return wrapped - (1 << bits) if signed and wrapped >= 1 << (bits - 1) else wrapped
