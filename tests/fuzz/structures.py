"""Mutate contents of a format: header fields, elements, links, cells, with critical values."""

from __future__ import annotations

import ast
import copy
import io
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

Change = Callable[[bytes, float, int], bytes]

_LARGE_TEXT = 1 << 16
_MOST_TEXT = 1 << 22  # half a million short lines; more only takes longer, in proportion, for whoever reads them
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3e38, -3e38, 1e300, math.nan, math.inf, -math.inf)
_INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 64, 255, 256, 512, 2048, 32767, -32768, 2**31 - 1, -(2**31), 2**62)
_KEYWORDS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept", "SliceThickness", "SpacingBetweenSlices", "PixelPaddingValue", "ImageType",
    "EchoTime", "InPlanePhaseEncodingDirection", "AcquisitionMatrix", "InstanceNumber", "Modality", "EchoNumbers",
    "SeriesInstanceUID", "MagneticFieldStrength", "PixelData", "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence", "SpecificCharacterSet", "LossyImageCompression", "TemporalPositionIdentifier",
)  # fmt: skip
_VRS = ("US", "SS", "UL", "FD", "FL", "DS", "IS", "OB", "OW", "UN", "SQ", "PN", "LO", "CS", "UI", "AT", "UV", "OV")
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.201", "1.2.3", "",
)  # fmt: skip
_CELLS = (
    "", " ", "0", "-1", "1e999", "nan", "inf", "1_000", "..", "../../etc/passwd", "/dev/zero", "a" * 200, "a" * 200_000,
    "CON", "zarr.json", "__x", ".x", "v\u0301", "\u202ev", "a\tb", "a\nb", '"', "'", ",", ";", "\0", "file:///dev/null",
    "http://127.0.0.1:9/x", "=1+1", "\ufeff", "v0", "V0", "v0@1", "2147483648", "99999999999999999999",
)  # fmt: skip


def nifti_field(data: bytes, where: float, number: int) -> bytes:
    """Set one value of a header field."""
    kind = nib.Nifti2Header if struct.unpack("<i", data[:4])[0] in (540, 469893120) else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    header = kind(data[:size], check=False)
    names = [name for name in header.structarr.dtype.names if header.structarr[name].dtype.kind in "iuf"]
    name = names[int(where * len(names)) % len(names)]
    field = header.structarr[name]
    values = _FLOATS if field.dtype.kind == "f" else _INTEGERS
    with np.errstate(all="ignore"):
        value = np.asarray(values[number % len(values)]).astype(field.dtype)
    if field.ndim:
        field[number // 64 % field.size] = value
    else:
        header.structarr[name] = value
    return bytes(header.binaryblock) + data[size:]


def dicom_value(data: bytes, where: float, number: int) -> bytes:
    """Set an element to another value, of its own type or another."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    place, keyword = _place(dataset, where, number)
    tag = pydicom.datadict.tag_for_keyword(keyword)
    vr = pydicom.datadict.dictionary_VR(tag).split(" ")[0]
    choice = random.Random(number)  # noqa: S311
    if choice.random() < 0.15:
        place.pop(tag, None)
    else:
        place[tag] = RawDataElement(Tag(tag), vr, 0, _raw_value(vr, choice), 0, False, True)
    return _saved(dataset)


def _place(dataset: Dataset, where: float, number: int) -> tuple[Dataset, str]:
    """Return the top level, or an item of a sequence in it; and a keyword that readers use."""
    place = dataset
    items = dataset.get("PerFrameFunctionalGroupsSequence")
    if items and number % 4 == 0:
        group = items[number // 4 % len(items)]
        inner = [element.value for element in group if element.VR == "SQ" and element.value]
        place = inner[number // 64 % len(inner)][0] if inner else group
    present = [element.keyword for element in place if element.keyword]
    words = present if number % 3 == 0 and present else list(_KEYWORDS)
    return place, words[int(where * len(words)) % len(words)]


def _raw_value(vr: str, choice: random.Random) -> bytes:
    if vr in ("US", "SS"):
        return struct.pack("<H", choice.choice(_INTEGERS) % 65536) * choice.choice((0, 1, 1, 1, 2))
    if vr in ("UL", "SL"):
        return struct.pack("<I", choice.choice(_INTEGERS) % 2**32)
    if vr in ("FD", "FL"):
        return struct.pack("<d", choice.choice(_FLOATS)) * choice.choice((1, 1, 3, 6))
    words = [str(value) for value in (*_FLOATS, *_INTEGERS)] + ["", "x", "M", "P", "COL", "ROW", "\0", "1e", "9" * 70]
    text = "\\".join(choice.choice(words) for _ in range(choice.choice((0, 1, 1, 2, 3, 6, 500))))
    return text.encode() + b" " * (len(text) % 2)


def dicom_vr(data: bytes, where: float, number: int) -> bytes:
    """Write another value representation over that of an element, where it is explicit."""
    places = [at for at in range(132, min(len(data) - 8, 8192)) if data[at : at + 2].isalpha() and data[at - 1] < 0x80
              and data[at : at + 2].isupper()]  # fmt: skip
    at = places[int(where * len(places)) % len(places)]
    return data[:at] + _VRS[number % len(_VRS)].encode() + data[at + 2 :]


def dicom_syntax(data: bytes, where: float, number: int) -> bytes:
    """State another transfer syntax than that of the data."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    old, new = str(dataset.file_meta.TransferSyntaxUID).encode(), _SYNTAXES[number % len(_SYNTAXES)].encode()
    size = len(old) + len(old) % 2
    return data.replace(old.ljust(size, b"\0"), new.ljust(size, b"\0")[:size], 1)


def dicom_nest(data: bytes, where: float, number: int) -> bytes:
    """Nest sequences deeply, or copy the whole data set into a sequence."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if number % 2:
        inner = copy.deepcopy(dataset)
        inner.pop("PixelData", None)
        dataset.ReferencedImageSequence = Items([inner])
        return _saved(dataset)
    dataset.pop("PixelData", None)
    depth = 2 ** (number // 2 % 14)
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    at = 132 + int(where * 400)
    return data[:at] + nested + data[at:]


def _saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def hdf5_object(data: bytes, where: float, number: int) -> bytes:
    """Change a dataset, an attribute or a link with h5py."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
        name = names[int(where * len(names)) % len(names)]
        _HDF5_CHANGES[number % len(_HDF5_CHANGES)](file, name, number // 16)
    return buffer.getvalue()


def _other_values(file: h5py.File, name: str, number: int) -> None:
    values = file[name][()]
    del file[name]
    values = np.asarray(values)
    values = values.real if values.dtype.kind == "c" else values
    kinds = (np.int8, ">f8", np.float16, np.complex64, "bool", "S7", np.uint64)
    file[name] = values.astype(kinds[number % len(kinds)])


def _other_shape(file: h5py.File, name: str, number: int) -> None:
    del file[name]
    shapes: tuple[tuple[int, ...], ...] = (
        (), (0,), (5,), (1, 1), (1,) * 7, (2, 0, 3), (2**40, 2, 2), (100_000, 100_000), (2**31, 2**31), (3, 3000, 3000),
    )  # fmt: skip
    shape = shapes[number % len(shapes)]
    chunks = tuple(min(n, 16) for n in shape) if shape and 0 not in shape else None
    file.create_dataset(name, shape, "f4", chunks=chunks, compression="gzip" if chunks else None)


def _other_link(file: h5py.File, name: str, number: int) -> None:
    del file[name]
    links = (h5py.ExternalLink("/etc/hostname", "/x"), h5py.SoftLink(f"/{name}"), h5py.SoftLink("/nowhere"),
             h5py.ExternalLink("other.h5", "/volume"), h5py.SoftLink("/"))  # fmt: skip
    file[name] = links[number % len(links)]


def _external(file: h5py.File, name: str, number: int) -> None:
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _other_attribute(file: h5py.File, name: str, number: int) -> None:
    values: tuple[Any, ...] = (np.zeros(5000), "x" * 60000, np.nan, b"\xff\xfe", h5py.Empty("f"), file.ref, 3)
    file.attrs[("acquisition", "patient_id", "max")[number % 3]] = values[number // 3 % len(values)]


def _other_header(file: h5py.File, name: str, number: int) -> None:
    file.pop("ismrmrd_header", None)
    headers: tuple[Any, ...] = (b"<TE>" * 20000, b"<x>" * 9999, "<reconSpace>" * 9999, b"\xff" * 99, np.zeros(9), 7.0,
        b"<reconSpace><matrixSize><x>1e300</x><y>-1</y><z>0</z></matrixSize></reconSpace>",
        b"<reconSpace><matrixSize><x>nan</x><y>1e9</y><z>1</z></matrixSize><fieldOfView_mm><x>1e-300</x><y>1</y><z>1"
        b"</z></fieldOfView_mm></reconSpace>")  # fmt: skip
    file["ismrmrd_header"] = headers[number % len(headers)]


_HDF5_CHANGES = (_other_values, _other_shape, _other_link, _external, _other_attribute, _other_header)


def npy_header(data: bytes, where: float, number: int) -> bytes:
    """Write another header before the same values."""
    size = struct.unpack("<H", data[8:10])[0]
    header = ast.literal_eval(data[10 : 10 + size].decode())  # a dictionary of our own seed, as NumPy writes it
    changed = (
        {"shape": (2**31, 2**31, 2**31)}, {"shape": (-1, 3, 3)}, {"descr": "<f16"}, {"shape": (1,) * 7}, {"x": 1},
        {"shape": (0, 3, 3)}, {"descr": [("a", "<f4")]}, {"descr": "<U4"}, {"shape": ()}, {"fortran_order": 1},
        {"descr": ">i8"}, {"shape": tuple(reversed(header["shape"]))}, {"shape": (True, 2, 3)}, {"descr": "<M8[s]"},
        {"descr": "|O", "shape": (3,)},
    )  # fmt: skip
    texts = ["(" * 150, "-" * 3000 + "1", "[" * 90 + "]" * 90, "", " " * 60000, repr(header)[:-3]]
    texts += [repr(header | change) for change in changed]
    text = texts[number % len(texts)].encode()[:65000]
    return data[:8] + struct.pack("<H", len(text)) + text + data[10 + size :]


def manifest_cell(data: bytes, where: float, number: int) -> bytes:
    """Write another text into one cell, unquoted."""
    lines = data.split(b"\n")
    cells = [(i, j) for i, line in enumerate(lines) for j in range(line.count(b",") + 1)]
    i, j = cells[int(where * len(cells)) % len(cells)]
    parts = lines[i].split(b",")
    parts[j] = _CELLS[number % len(_CELLS)].encode()
    lines[i] = b",".join(parts)
    return b"\n".join(lines)


def manifest_text(data: bytes, where: float, number: int) -> bytes:
    """Write the whole file in another encoding or layout."""
    ways: tuple[Callable[[bytes], bytes], ...] = (
        lambda text: text.decode("utf-8-sig").encode("utf-16"), lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"), lambda text: text.replace(b",", b";"), lambda text: _many(text, 3000),
        lambda text: text + b"x" * 3_000_000, lambda text: b"\n" * 100_000 + text, lambda text: text.upper(),
        lambda text: text.replace(b",", b"\0"), lambda text: text + b"\"" + _many(text, 2000),
        lambda text: text.split(b"\n")[0],
        lambda text: text.split(b"\n")[0] + b"," * 100_000 + b"\n" + text,
    )  # fmt: skip
    return ways[number % len(ways)](data) if len(data) < _LARGE_TEXT else data


def _many(text: bytes, times: int) -> bytes:
    return text * max(1, min(times, _MOST_TEXT // max(1, len(text))))


def json_value(data: bytes, where: float, number: int) -> bytes:
    """Change one value, or one key, of a JSON document."""
    document = json.loads(data)
    places = list(_json_places(document))
    holder, key = places[int(where * len(places)) % len(places)]
    values: tuple[Any, ...] = (
        None, True, 0, -1, 1, 10**9, 10**30, 1.5, 1e308, math.nan, math.inf, "", "x", "../..", [], [[]], {}, {"a": 1},
        [1, 2, 3], [10**6], "\ud800",
    )  # fmt: skip
    if number % 7 == 0 and isinstance(holder, dict):
        holder.pop(key)
    elif number % 11 == 0:
        return data.replace(b"{", b'{"a":' + b"[" * (number // 16 % 200_000), 1)
    else:
        holder[key] = values[number % len(values)]
    return json.dumps(document, sort_keys=True).encode()


def _json_places(document: Any) -> Any:
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(pairs):
        yield document, key
        yield from _json_places(value)


def safetensors_header(data: bytes, where: float, number: int) -> bytes:
    """Change one value of the header of a weights file."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json_value(data[8 : 8 + size], where, number)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


CHANGES: dict[str, tuple[tuple[str, ...], Change]] = {
    "nifti_field": (("nifti",), nifti_field),
    "dicom_value": (("dicom",), dicom_value),
    "dicom_vr": (("dicom",), dicom_vr),
    "dicom_syntax": (("dicom",), dicom_syntax),
    "dicom_nest": (("dicom",), dicom_nest),
    "hdf5_object": (("hdf5",), hdf5_object),
    "npy_header": (("npy",), npy_header),
    "manifest_cell": (("manifest",), manifest_cell),
    "manifest_text": (("manifest",), manifest_text),
    "json_value": (("checkpoint", "store"), json_value),
    "safetensors_header": (("checkpoint",), safetensors_header),
}
"""Name -> targets and function."""
