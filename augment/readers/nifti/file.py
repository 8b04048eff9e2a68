"""Open one NIfTI file, check its header, and read its values; neither is trusted."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.fileslice import fileslice
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.readers.geometry import Affine, Arrangement, arrange_axes, choose_slice_axis
from rephase.readers.volume import check_limit, refuse_vanished
from rephase.text import one_line

Stream = gzip.GzipFile | io.BufferedReader

_LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEADER_BYTES = 540
_CIFTI_INTENTS = range(3000, 3100)
_LARGEST_OFFSET = 1 << 26
_DEFLATE_RATIO = 1032  # limit of zlib: no stream unpacks to more
_MOST_PADDING = 1 << 20
_BLOCK_BYTES = 1 << 17
_LARGEST_PLANE = 1 << 24
_LARGEST_SAMPLE = 1 << 23  # voxels: a few planes of a large image are enough
_LINE_ENDS = ((0, 0, 0, 0), (13, 10, 26, 10))
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class NiftiHeader:
    """The checked header of one file.

    `shape` has three sizes, `num_frames` is the product of all others; `affine` maps to LPS mm; `acquisition` records
    assumptions.
    """

    name: str
    shape: tuple[int, int, int]
    num_frames: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: Affine
    phase_axis: int | None
    slice_axis: int | None
    acquisition: dict[str, Any] = field(default_factory=dict)

    def arrange(self, slice_axis: int | None) -> Arrangement:
        """Return the arrangement of the axes; `slice_axis` is that of the manifest or None."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        chosen = choose_slice_axis(slice_axis, self.slice_axis, self.shape, spacing.tolist())
        return arrange_axes(self.affine, self.shape, chosen, self.phase_axis)

    @property
    def expected_bytes(self) -> int:
        """Size of the unpacked file by its header."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.num_frames * self.dtype.itemsize


@contextmanager
def open_nifti(path: Path, name: str) -> Iterator[tuple[NiftiHeader, Stream]]:
    """Open a file, decompressing gzip, and read its header.

    Parameters
    ----------
    path
        Path of a local file.
    name
        Name of the file in messages.

    Raises
    ------
    VolumeError
        `unreadable` or `unsupported`, also for read errors in the block of the `with` statement.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not packed and path.name.lower().endswith(".gz"):
                raise VolumeError("unreadable", f"{name}: is not gzip; expected .nii.gz; rename it or fetch it again")
            stream: Stream = gzip.GzipFile(fileobj=raw) if packed else raw
            header = _read_header(stream.read(_HEADER_BYTES), name)
            _check_size(header, path.stat().st_size, packed)
            yield header, stream
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(
            "unreadable", f"{name}: is truncated or damaged ({one_line(error)}); expected NIfTI; fetch it again"
        ) from error


def _read_header(start: bytes, name: str) -> NiftiHeader:
    kind = next((k for k in (nib.Nifti1Header, nib.Nifti2Header) if k.may_contain_header(start)), None)
    if kind is None:
        raise VolumeError("unreadable", f"{name}: has no NIfTI header; expected NIfTI-1 or -2; correct path or format")
    try:
        header = kind(binaryblock=start[: kind.template_dtype.itemsize], check=False)
        if bytes(header["magic"])[:2] not in (b"n+", b"ni") or bytes(header["magic"])[1:2] == b"i":
            raise VolumeError("unsupported", f"{name}: is one of a pair of files; expected one .nii; convert it")
        if kind is nib.Nifti2Header and tuple(header["eol_check"].tolist()) not in _LINE_ENDS:
            raise ValueError("line ends were converted")
        slope, intercept = header.get_slope_inter()
        return _check_header(header, float(1 if slope is None else slope), float(intercept or 0), name)
    except (HeaderDataError, ValueError, KeyError, TypeError, OverflowError, np.linalg.LinAlgError) as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(
            "unreadable", f"{name}: its header is damaged ({one_line(error)}); expected NIfTI; convert it again"
        ) from error


def _check_header(header: nib.Nifti1Header, slope: float, intercept: float, name: str) -> NiftiHeader:
    sizes = [int(size) for size in header.get_data_shape()]
    if not 2 <= len(sizes) <= 7 or min(sizes) < 1:
        raise VolumeError("unsupported", f"{name}: has sizes {sizes}; expected two to four dimensions; convert it")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iufc":
        raise VolumeError("unsupported", f"{name}: has values of type {dtype}; expected numbers; convert it")
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        raise VolumeError("unsupported", f"{name}: is CIFTI (surfaces, matrices); expected image volumes; name those")
    offset = int(header.get_data_offset())
    if not header.single_vox_offset <= offset <= _LARGEST_OFFSET:
        raise VolumeError(
            "unreadable", f"{name}: its data starts at byte {offset}; expected 352 or slightly more; convert it"
        )
    shape = (sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1)
    affine, assumed = _affine(header, shape)
    _, phase_axis, slice_axis = header.get_dim_info()
    return NiftiHeader(
        name=name,
        shape=shape,
        num_frames=int(np.prod(sizes[3:], dtype=object)) if len(sizes) > 3 else 1,
        dtype=dtype,
        offset=offset,
        slope=slope,
        intercept=intercept,
        affine=affine,
        phase_axis=phase_axis,
        slice_axis=slice_axis,
        acquisition={"source_format": "nifti", "stored_type": dtype.name, **assumed},
    )


def _affine(header: nib.Nifti1Header, shape: tuple[int, int, int]) -> tuple[Affine, dict[str, str]]:
    """Return the affine, from sform, qform or voxel sizes along NIfTI's default axes, and the assumptions made."""
    for code, get in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        if int(header[code]) > 0:
            affine = np.asarray(get(), dtype=np.float64)
            if not np.all(np.isfinite(affine)):  # damaged: falling back to other coordinates would go unnoticed
                raise ValueError(f"its {code.removesuffix('_code')} is not finite")
            if np.linalg.matrix_rank(affine[:3, :3]) == 3:
                return _LPS_OF_RAS @ affine, {}
    spacing = [abs(float(z)) for z in header["pixdim"][1:4]]
    affine = np.diag([*(z if 0 < z < np.inf else 1.0 for z in spacing), 1.0])
    affine[:3, 3] = -affine.diagonal()[:3] * (np.array(shape) - 1) / 2
    return _LPS_OF_RAS @ affine, {"orientation": "assumed: no sform or qform, axes taken as right, anterior, superior"}


def _check_size(header: NiftiHeader, file_bytes: int, packed: bool) -> None:
    """Check that the file can have the size that its header states, before memory is allocated."""
    possible = file_bytes * (_DEFLATE_RATIO if packed else 1)
    if header.expected_bytes > possible:
        raise VolumeError(
            "unreadable",
            f"{header.name}: has {file_bytes} bytes; "
            f"expected {header.expected_bytes}{' unpacked' if packed else ''} by "
            "its header; fetch it again",
        )


def read_frame(header: NiftiHeader, stream: Stream, frame: int, limit_bytes: int | None) -> NDArray[Any]:
    """Read one volume: float32, or complex64 of complex data.

    The rest of a gzip stream is read too, since its checksum is at the end.

    Parameters
    ----------
    header, stream
        Results of `open_nifti`.
    frame
        Counted over all axes after the third, the fourth one fastest.
    limit_bytes
        Memory limit, None for no limit.

    Returns
    -------
    values
        In the file's three axes, scaled by slope and intercept.

    Raises
    ------
    VolumeError
        `too_large`; `unreadable` if the file has more data than its header states.
    """
    check_frame(header, limit_bytes)
    size = int(np.prod(header.shape, dtype=np.int64)) * header.dtype.itemsize
    stream.seek(header.offset + frame * size)
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"{len(content)} of {size} bytes")
    raw = np.frombuffer(content, header.dtype).reshape(header.shape, order="F")
    _drain(header, stream)
    wide = np.complex128 if header.dtype.kind == "c" else np.float64
    values = np.empty(header.shape, np.complex64 if header.dtype.kind == "c" else np.float32, order="F")

    def scale(plane: int) -> NDArray[Any]:
        scaled: NDArray[Any] = raw[:, :, plane].astype(wide) * header.slope + header.intercept
        return scaled

    # plane by plane: the standard scales in double precision, which would double the memory of the volume
    with np.errstate(over="ignore", invalid="ignore"):
        for plane in range(header.shape[2]):
            values[:, :, plane] = scale(plane)
    refuse_vanished(
        values, lambda: max(float(np.abs(scale(plane)).max()) for plane in range(header.shape[2])), header.name
    )
    return values


def check_frame(header: NiftiHeader, limit_bytes: int | None) -> None:
    """Check that a volume fits into the memory limit: the bytes of the file and two arrays."""
    size = int(np.prod(header.shape, dtype=np.int64))
    check_limit(size * (header.dtype.itemsize + (16 if header.dtype.kind == "c" else 8)), limit_bytes, header.name)


def sample_planes(header: NiftiHeader, stream: Stream, num_planes: int = 6) -> NDArray[Any]:
    """Read a few planes from the middle of the first frame, scaled: `(plane, y, x)`, to classify the image."""
    if header.shape[0] * header.shape[1] > _LARGEST_PLANE:
        sizes = f"{header.shape[0]} x {header.shape[1]}"
        raise VolumeError("unsupported", f"{header.name}: has planes of {sizes} voxels; expected MR images; check it")
    num_planes = max(1, min(num_planes, _LARGEST_SAMPLE // (header.shape[0] * header.shape[1])))
    middle = header.shape[2] // 2
    first = max(0, middle - num_planes // 2)
    selected = (slice(None), slice(None), slice(first, first + num_planes), *((0,) if header.num_frames > 1 else ()))
    shape = (*header.shape, header.num_frames) if header.num_frames > 1 else header.shape
    try:
        raw = fileslice(stream, selected, shape, header.dtype, header.offset, order="F")
    except ValueError as error:  # raised by nibabel
        raise EOFError(one_line(error)) from error
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(raw.T * header.slope + header.intercept)


def _drain(header: NiftiHeader, stream: Stream) -> None:
    """Read to the end, for the checksum of gzip, and check that the file has as many voxels as its header states.

    Otherwise the sizes are wrong, and the values would be read in rows of a wrong length.
    """
    if isinstance(stream, gzip.GzipFile):
        while stream.tell() < header.expected_bytes and stream.read(
            min(_BLOCK_BYTES, header.expected_bytes - stream.tell())
        ):
            pass
    else:
        stream.seek(0, io.SEEK_END)
    if stream.tell() < header.expected_bytes:  # bytes missing anywhere would shift all values after them
        raise EOFError(f"{stream.tell()} of {header.expected_bytes} bytes")
    stream.seek(header.expected_bytes)
    plane = header.shape[0] * header.shape[1] * header.dtype.itemsize
    rest = stream.read(_MOST_PADDING)
    if len(rest) == _MOST_PADDING or (len(rest) >= plane and any(rest)):
        raise VolumeError(
            "unreadable",
            f"{header.name}: has more than {header.expected_bytes} bytes; "
            "expected the sizes and the type of its header; "
            "they are damaged; convert it again",
        )
