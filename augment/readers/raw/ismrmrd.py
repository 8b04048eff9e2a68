"""Read Cartesian ISMRMRD (MRD version 1) raw data: a group of an HDF5 file with `xml` and `data`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.hdf5_files import open_hdf5
from rephase.ismrmrd_header import fastmri_facts
from rephase.manifests.record import ManifestRow
from rephase.readers.raw.data import RawData
from rephase.readers.volume import check_limit
from rephase.text import one_line

_NOT_IMAGING = (19, 20, 23, 24, 26, 27, 28, 29)
"""Flags, from 1, of noise, calibration alone, navigation, phase correction, feedback, dummy scans, surface coils."""
_REVERSE = 22
_LARGEST_HEADER = 1 << 20


def raw_group(file: h5py.File) -> h5py.Group | None:
    """Return the group with header and acquisitions; None if the file has none."""
    groups = [file, *(file[key] for key in file if isinstance(file.get(key, getlink=True), h5py.HardLink))]
    found = (one for one in groups if isinstance(one, h5py.Group) and {"xml", "data"} <= set(one))
    return next(found, None)


def open_ismrmrd(path: Path, row: ManifestRow, name: str, limit_bytes: int | None) -> RawData:
    """Sort the acquisitions of one contrast and repetition into k-space; averages are averaged.

    Raises
    ------
    VolumeError
        `unreadable`; `unsupported` for other trajectories than Cartesian, EPI, and several encodings; `ambiguous` if
        there are several contrasts or repetitions and the row chooses none.
    """
    try:
        with open_hdf5(path) as file:
            group = raw_group(file)
            if group is None:
                raise VolumeError(
                    "unsupported", f"{name}: has no ISMRMRD raw data; expected xml and data; correct format"
                )
            check_limit(2 * path.stat().st_size, limit_bytes, name)
            text = group["xml"][0]
            records = group["data"][()]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        raise VolumeError(
            "unreadable", f"{name}: cannot be read ({one_line(error)}); expected ISMRMRD; fetch it again"
        ) from error
    header = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    root = _parsed(header, name)
    _check_trajectory(root, name)
    facts = fastmri_facts(header, None)
    if facts.encoding_size is None:
        raise VolumeError("unsupported", f"{name}: its header states no encodedSpace; expected one; mend the header")
    head = _imaging(records, row, name)
    try:
        kspace = _filled(records[head], facts.encoding_size, root)
    except (IndexError, ValueError) as error:
        raise VolumeError(
            "unreadable",
            f"{name}: acquisitions do not fit the encoded space {facts.encoding_size} ({one_line(error)}); expected "
            "those of one encoding; mend the file",
        ) from error
    size = None if facts.recon_size is None else (facts.recon_size[0], facts.recon_size[1])
    axes = ("slice", "partition", "coil", "height", "width")
    return RawData(kspace, axes, True, size, facts.spacing_mm, facts, centred=True)


def _parsed(text: str, name: str) -> ElementTree.Element:
    try:
        if "<!DOCTYPE" in text or len(text) > _LARGEST_HEADER:
            raise ValueError("an entity or a size that no header has")
        return ElementTree.fromstring(text.encode())  # noqa: S314 - without DOCTYPE
    except (ElementTree.ParseError, ValueError) as error:
        raise VolumeError(
            "unreadable", f"{name}: its XML header is damaged ({one_line(error)}); expected ISMRMRD's; fetch it again"
        ) from error


def _check_trajectory(root: ElementTree.Element, name: str) -> None:
    encodings = root.findall("{*}encoding")
    if len(encodings) != 1:
        raise VolumeError(
            "unsupported",
            f"{name}: is ISMRMRD raw data of {len(encodings)} encodings; expected one; split it",
        )
    trajectory = (encodings[0].findtext("{*}trajectory") or "cartesian").strip().lower()
    if trajectory != "cartesian":
        raise VolumeError(
            "unsupported",
            f"{name}: has the trajectory {trajectory}; expected cartesian; reconstruct it and save complex images",
        )


def _imaging(records: NDArray[Any], row: ManifestRow, name: str) -> NDArray[np.bool_]:
    """Return which acquisitions belong to the volume."""
    head = records["head"]
    unwanted = np.uint64(sum(1 << (flag - 1) for flag in _NOT_IMAGING))
    used = (head["flags"] & unwanted) == 0
    if not used.any():
        raise VolumeError("unsupported", f"{name}: has no imaging data; expected some; choose another file")
    if (head["flags"][used] & np.uint64(1 << (_REVERSE - 1))).any():
        raise VolumeError(
            "unsupported",
            f"{name}: has lines in both directions (EPI); expected one; reconstruct it and save complex images",
        )
    for key, column, chosen in (("contrast", "echo", row.echo), ("repetition", "frame", row.frame)):
        present = np.unique(head["idx"][key][used])
        wanted = present[0] if len(present) == 1 and chosen is None else None
        if chosen is not None:
            wanted = chosen - (column == "echo")
        if wanted is None or wanted not in present:
            first = int(column == "echo")
            raise VolumeError(
                "ambiguous" if wanted is None else "mismatch",
                f"{name}: has {len(present)} {key}s; expected {column} from {present[0] + first} to "
                f"{present[-1] + first}; fill in the column {column}",
            )
        used &= head["idx"][key] == wanted
    return np.asarray(used)


def _filled(records: NDArray[Any], size: tuple[int, int, int], root: ElementTree.Element) -> NDArray[np.complex64]:
    """Return k-space `(slice partition coil height width)`."""
    head = records["head"]
    readout, lines, partitions = size
    num_slices, num_coils = int(head["idx"]["slice"].max()) + 1, int(head["active_channels"].max())
    kspace = np.zeros((num_slices, partitions, num_coils, readout, lines), np.complex64)
    count = np.zeros((num_slices, partitions, lines), np.int64)
    shift = [
        middle // 2 - _limit_centre(root, f"kspace_encoding_step_{number}", middle // 2)
        for number, middle in ((1, lines), (2, partitions))
    ]
    for record in records:
        one = record["head"]
        number, coils = int(one["number_of_samples"]), int(one["active_channels"])
        samples = np.asarray(record["data"], np.float32).view(np.complex64).reshape(coils, number)
        start, stop = int(one["discard_pre"]), number - int(one["discard_post"])
        begin = readout // 2 - int(one["center_sample"]) + start  # of an asymmetric echo
        line = int(one["idx"]["kspace_encode_step_1"]) + shift[0]
        partition = int(one["idx"]["kspace_encode_step_2"]) + (shift[1] if partitions > 1 else 0)
        if min(begin, line, partition) < 0:
            raise ValueError(f"line {line}, partition {partition}, sample {begin}")
        place = (int(one["idx"]["slice"]), partition)
        kspace[(*place, slice(0, coils), slice(begin, begin + stop - start), line)] += samples[:, start:stop]
        count[(*place, line)] += 1
    kspace /= np.maximum(count, 1)[:, :, np.newaxis, np.newaxis, :].astype(np.float32)
    return kspace


def _limit_centre(root: ElementTree.Element, limit: str, default: int) -> int:
    text = root.findtext(f".//{{*}}encodingLimits/{{*}}{limit}/{{*}}center")
    return default if text is None else int(text)
