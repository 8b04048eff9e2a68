"""Read images of other formats as NIfTI in memory: FreeSurfer's, MINC and PAR/REC by nibabel, NRRD by pynrrd.

MetaImage is not among them: the libraries that read it are those of ITK, of 50 MB and more.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.parrec import PARRECError, PARRECImage
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.readers.volume import check_limit
from rephase.text import one_line

_MOST_BYTES = 4 << 30
_DEFLATE_RATIO = 1032  # limit of zlib: no stream unpacks to more
_ERRORS = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError,
    RuntimeError, zlib.error, struct.error, ImageFileError, nrrd.NRRDError, PARRECError,
)  # fmt: skip
_BY_NIBABEL = (".mgz", ".mgh", ".mgh.gz", ".mnc", ".par")
_BY_PYNRRD = (".nrrd", ".nhdr")
_NRRD_SIZES = {"char": 1, "short": 2, "short int": 2, "int": 4, "long long": 8, "long long int": 8, "longlong": 8}
_NRRD_DIRECTIONS = {"right": (0, 1), "left": (0, -1), "anterior": (1, 1), "posterior": (1, -1), "superior": (2, 1),
                    "inferior": (2, -1)}  # fmt: skip


class _Image(NamedTuple):
    values: NDArray[Any]
    affine: NDArray[np.float64] | None  # to RAS mm
    spacing: tuple[float, ...] = ()
    te_ms: float | None = None


def is_other(path: Path) -> bool:
    """Whether a file has the name of one of these formats."""
    return path.name.lower().endswith((*_BY_NIBABEL, *_BY_PYNRRD))


def files_of(path: Path) -> list[Path]:
    """Return the files of an image: two for PAR/REC, and for NRRD with a header of its own."""
    suffix = {".par": ".rec", ".PAR": ".REC"}.get(path.suffix)
    found = [path] if suffix is None else [path, path.with_suffix(suffix)]
    if path.suffix.lower() == ".nhdr":
        found.append(_data_file(nrrd.read_header(str(path)), path))
    return found


def as_nifti(path: Path, name: str) -> tuple[io.BytesIO, float | None]:
    """Return an image as the contents of a NIfTI-2 file, and its echo time in milliseconds if the header has it.

    Raises
    ------
    VolumeError
        `too_large`, `unsupported`, `unreadable`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = (_nrrd if path.name.lower().endswith(_BY_PYNRRD) else _nibabel)(path, name)
            image = nib.Nifti2Image(found.values, found.affine, dtype=found.values.dtype)
            if found.affine is None:
                image.header.set_zooms((*found.spacing, *[1.0] * (found.values.ndim - len(found.spacing))))
            image.header.set_xyzt_units("mm")
            return io.BytesIO(image.to_bytes()), found.te_ms
    except _ERRORS as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(
            "unreadable", f"{name}: is truncated or damaged ({one_line(error)}); expected an image; fetch it again"
        ) from error


def _check(shape: tuple[int, ...], item_bytes: int, path: Path, name: str) -> None:
    num_bytes = int(np.prod(shape, dtype=object)) * item_bytes
    check_limit(num_bytes, _MOST_BYTES, name)
    if num_bytes > _DEFLATE_RATIO * path.stat().st_size:
        raise VolumeError("unreadable", f"{name}: is smaller than its header states, {shape}; fetch it again")


def _nibabel(path: Path, name: str) -> _Image:
    image = nib.load(path)
    _check(image.shape, np.dtype(image.get_data_dtype()).itemsize, files_of(path)[-1], name)
    times: list[float] = []
    if isinstance(image, nib.MGHImage):
        times = [float(image.header["te"])]
    elif isinstance(image, PARRECImage):
        if set(image.header.image_defs["image_type_mr"]) != {0}:
            raise VolumeError(
                "unsupported", f"{name}: holds phase or other parts too; expected magnitude; convert it with dcm2niix"
            )
        times = sorted(set(image.header.image_defs["echo_time"].tolist()))
    values = np.asanyarray(image.dataobj)
    file: Any = getattr(image.dataobj, "file_like", None)
    if hasattr(file, "close"):  # nibabel leaves that of PAR/REC open
        file.close()
    return _Image(values, image.affine, (), times[0] if len(times) == 1 and times[0] > 0 else None)


def _data_file(header: dict[str, Any], path: Path) -> Path:
    stated = str(header.get("data file", header.get("datafile", path.name)))
    if Path(stated).name != stated:
        raise VolumeError(
            "unsupported", f"{path}: its values are in {stated}; expected a file beside it; save it again"
        )
    return path.with_name(stated)


def _nrrd(path: Path, name: str) -> _Image:
    with path.open("rb") as raw:
        header = nrrd.read_header(raw)
        source = _data_file(header, path)
        content = raw.read() if source == path else source.read_bytes()
    sizes = tuple(int(size) for size in header["sizes"])
    dtype, encoding = _nrrd_type(header), str(header["encoding"]).lower()
    _check(sizes, dtype.itemsize, source, name)
    skipped = any(int(header.get(word, 0)) for word in ("line skip", "lineskip", "byte skip", "byteskip"))
    if encoding not in ("raw", "gzip", "gz") or skipped:
        raise VolumeError("unsupported", f"{name}: is NRRD in {encoding}; expected raw or gzip; save it again")
    expected = int(np.prod(sizes, dtype=object)) * dtype.itemsize
    if encoding != "raw":
        content = zlib.decompressobj(wbits=31).decompress(content, expected)
    values = np.frombuffer(content, dtype, expected // dtype.itemsize).reshape(sizes, order="F")
    directions = np.asarray(header.get("space directions", np.zeros((0, 3))), np.float64)
    spatial = [axis for axis in range(len(directions)) if np.isfinite(directions[axis]).all()] or list(range(3))
    if any("vector" in kind or "color" in kind or "matrix" in kind for kind in header.get("kinds", ())):
        raise VolumeError("unsupported", f"{name}: holds vectors or colours; expected magnitudes; name their image")
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    values = values.transpose(*spatial, *others)
    words = str(header.get("space", "")).lower().replace("-time", "").split("-")
    axes = [_NRRD_DIRECTIONS.get(word) for word in words]
    if len(directions) == 0 or len(spatial) != 3 or len(axes) != 3 or None in axes:
        spacings = [abs(float(step)) for step in header.get("spacings", ())]
        lengths = spacings or np.linalg.norm(directions[spatial], axis=1).tolist() if len(directions) else spacings
        return _Image(values, None, tuple(lengths[:3]))
    affine = np.eye(4)
    affine[:3, :3] = directions[spatial].T
    affine[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), np.float64)
    to_ras = np.zeros((4, 4))
    to_ras[3, 3] = 1
    for axis, (target, sign) in enumerate(pair for pair in axes if pair is not None):
        to_ras[target, axis] = sign
    return _Image(values, to_ras @ affine)


def _nrrd_type(header: dict[str, Any]) -> np.dtype[Any]:
    word = str(header["type"]).lower().removesuffix("_t")
    if word in ("float", "double"):
        code = "f4" if word == "float" else "f8"
    elif word.lstrip("u").startswith("int") and word.lstrip("uint").isdigit():
        code = f"{'u' if word[0] == 'u' else 'i'}{int(word.lstrip('uint')) // 8}"
    else:
        kind = "u" if word.startswith("u") else "i"
        bare = word.removeprefix("unsigned ").removeprefix("signed ")
        code = f"{kind}{_NRRD_SIZES[bare if bare in _NRRD_SIZES else bare.removeprefix('u')]}"
    return np.dtype(code).newbyteorder(">" if header.get("endian") == "big" else "<")
