"""Read Cartesian Siemens raw data (twix, VB and VD/VE/XA) with pymapVBVD, an optional extra."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import VolumeFacts
from rephase.manifests.record import ManifestRow
from rephase.readers.raw.data import RawData
from rephase.readers.volume import check_limit
from rephase.text import install_hint, one_line


def open_twix(path: Path, row: ManifestRow, name: str, limit_bytes: int | None) -> RawData:
    """Read the image data of the last measurement; averages are averaged, the readout keeps its oversampling.

    Raises
    ------
    VolumeError
        `unreadable`; `unsupported` without the extra; `ambiguous` if there are several echoes or repetitions and the
        row chooses none.
    """
    try:
        from mapvbvd import mapVBVD, twix_map_obj
    except ImportError:
        raise VolumeError(
            "unsupported", f"{name}: is Siemens raw data; expected its reader; {install_hint('twix')}"
        ) from None
    _check_start(path, name)
    check_limit(3 * path.stat().st_size, limit_bytes, name)
    twix_map_obj.trange = lambda count, **_: range(count)  # its progress bar cannot be turned off
    try:
        twix: Any = mapVBVD(str(path), quiet=True)
        twix = twix[-1] if isinstance(twix, list) else twix  # the first ones adjust the scanner
        image = twix.image
        image.flagRemoveOS, image.flagDoAverage, image.flagIgnoreSeg = False, True, True
        values, names = np.asarray(image[""]), list(image.dataDims)
        header = twix.hdr
        centres = {"Col": int(image.centerCol[0]), "Lin": int(image.centerLin[0]), "Par": int(image.centerPar[0])}
    except Exception as error:  # the reader raises many kinds on damaged files
        raise VolumeError(
            "unreadable",
            f"{name}: cannot be read ({one_line(error)}); expected Siemens data (twix); fetch it again",
        ) from error
    axes: list[str | None] = []
    words = {"Col": "height", "Lin": "width", "Cha": "coil", "Sli": "slice", "Par": "partition"}
    for number, (one, count) in enumerate(zip(names, values.shape, strict=True)):
        if count > 1 and one not in words:
            values = np.take(values, [_chosen(one, count, row, name)], axis=number)
        axes.append(words.get(one))
    spacing, matrix = _geometry(header)
    full = {} if matrix is None else {"Col": 2 * matrix[0], "Lin": matrix[1], "Par": matrix[2]}
    for one, centre in centres.items():  # partial Fourier and asymmetric echoes begin late
        axis = names.index(one)
        values = _placed(values, axis, centre, full.get(one, 0)) if values.shape[axis] > 1 else values
    size = None if matrix is None else (matrix[0], matrix[1])
    return RawData(values, tuple(axes), True, size, spacing, _facts(header), centred=True)


def _check_start(path: Path, name: str) -> None:
    """Refuse a file whose first numbers lie: the library would read on, and leave it open."""
    with path.open("rb") as file:
        start = file.read(16 + 2 * 8)
    size, numbers = path.stat().st_size, struct.unpack("<4I2Q", start) if len(start) == 32 else None
    if numbers is not None:
        several = numbers[0] < 10000 and numbers[1] <= 64  # VD and later: a table of measurements
        end = numbers[4] if several else numbers[0]
        if 0 < end < size and (numbers[1] > 0):
            return
    raise VolumeError("unreadable", f"{name}: is no twix file, or cut short; expected Siemens raw data; fetch it again")


def _chosen(one: str, count: int, row: ManifestRow, name: str) -> int:
    column = {"Eco": "echo", "Rep": "frame"}.get(one)
    if column is None:
        raise VolumeError(
            "unsupported",
            f"{name}: has {count} values along {one}; expected one; reconstruct it and save complex images",
        )
    stated = row.echo if column == "echo" else row.frame
    number = None if stated is None else stated - (column == "echo")
    if number is None or not 0 <= number < count:
        raise VolumeError(
            "ambiguous" if number is None else "mismatch",
            f"{name}: has {count} along {one}; expected one of them in the column {column}; fill it in",
        )
    return number


def _number(header: Any, group: str, key: tuple[str, ...] | str) -> float | None:  # noqa: ANN401 - of the library
    try:
        return float(header[group][key])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _placed(values: NDArray[np.complex64], axis: int, centre: int, full: int) -> NDArray[np.complex64]:
    """Surround by zeros along an axis, so that the zero frequency is in the middle."""
    count = values.shape[axis]
    full = max(full, 2 * max(centre, count - centre))
    shape = [full if number == axis else size for number, size in enumerate(values.shape)]
    placed = np.zeros(shape, values.dtype)
    begin = full // 2 - centre
    placed[tuple(slice(begin, begin + count) if number == axis else slice(None) for number in range(values.ndim))] = (
        values
    )
    return placed


def _geometry(header: Any) -> tuple[tuple[float, float, float] | None, tuple[int, int, int] | None]:  # noqa: ANN401
    """Return the spacing and the matrix (readout without oversampling, lines, partitions) of a protocol."""
    plane = ("sSliceArray", "asSlice", "0")
    read_mm, phase_mm, thick_mm = (
        _number(header, "MeasYaps", (*plane, key)) for key in ("dReadoutFOV", "dPhaseFOV", "dThickness")
    )
    base, lines, partitions = (
        int(_number(header, "MeasYaps", ("sKSpace", key)) or 0)
        for key in ("lBaseResolution", "lPhaseEncodingLines", "lPartitions")
    )
    if not base or not lines:
        return None, None
    matrix = (base, lines, max(partitions, 1))
    if not (read_mm and phase_mm and thick_mm):
        return None, matrix
    return (thick_mm / matrix[2], read_mm / base, phase_mm / lines), matrix


def _facts(header: Any) -> VolumeFacts:  # noqa: ANN401 - of the library
    te_us = _number(header, "MeasYaps", ("alTE", "0"))
    field_t = _number(header, "Dicom", "flMagneticFieldStrength")
    return VolumeFacts(te_ms=None if not te_us else te_us / 1000, field_t=field_t or None)
