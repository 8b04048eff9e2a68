"""Parse and check the header of a NIfTI file; it is not trusted."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.geometry import Affine, Arrangement, arrange_axes, check_plausible, choose_slice_axis, is_chosen
from rephase.text import one_line

HEADER_BYTES = 540

_LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_CIFTI_INTENTS = range(3000, 3100)
_LARGEST_OFFSET = 1 << 26
_LINE_ENDS = ((0, 0, 0, 0), (13, 10, 26, 10))
_MM_OF = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
_FAULT_LEVEL = 40  # of nibabel's checks: what is below is repaired, as nibabel does when it opens a file
_THIN = 16
_PLANES = {"S": "axial", "I": "axial", "R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal"}
_LOG = logging.getLogger("rephase.nifti")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class NotAnImageError(VolumeError):
    """The file is valid, but of another kind, under which a scan counts it."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__("unsupported", message)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, str(self))


@dataclass(frozen=True)
class NiftiHeader:
    """The checked header of one file.

    Attributes
    ----------
    shape, num_frames
        Three sizes, and the product of all others.
    affine
        Maps to LPS mm, with the unit of the header applied.
    unit
        nibabel's word for that unit: meter, mm, micron or unknown.
    phase_axis, slice_axis
        Of the file's array, by `dim_info`; None if it does not state them.
    intent, intent_name, description
        What the values are: code and name of the intent, and `descrip`.
    is_vector
        Whether a fifth axis holds the components of a vector.
    is_pair
        Whether the values are in another file, `.img`.
    te_ms
        Echo time, where the header has it: that of FreeSurfer and of PAR/REC.
    notes
        As `rephase.manifests.header.SeriesHeader.notes`.
    acquisition
        Records assumptions.
    """

    name: str
    shape: tuple[int, int, int]
    num_frames: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: Affine
    unit: str
    phase_axis: int | None
    slice_axis: int | None
    intent: int = 0
    intent_name: str = ""
    description: str = ""
    is_vector: bool = False
    is_pair: bool = False
    te_ms: float | None = None
    notes: tuple[str, ...] = ()
    acquisition: dict[str, Any] = field(default_factory=dict)

    def arrange(self, slice_axis: int | None) -> Arrangement:
        """Return the arrangement of the axes; `slice_axis` is that of the manifest or the sidecar, or None.

        Raises
        ------
        VolumeError
            `unreadable` for an implausible spacing.
        """
        chosen = choose_slice_axis(slice_axis, self.slice_axis, self.shape, self._spacing)
        arrangement = arrange_axes(self.affine, self.shape, chosen, self.phase_axis)
        check_plausible(arrangement.spacing_mm, self.name, stated_unit=self.unit)
        return arrangement

    def notes_on(self, arrangement: Arrangement, slice_axis: int | None) -> tuple[str, ...]:
        """Return the notes of the header, and those on the planes of an arrangement."""
        notes = list(self.notes)
        if is_chosen(slice_axis, self.slice_axis, self.shape, self._spacing):
            plane = _PLANES[arrangement.orientation[0]]
            notes.append(
                f"takes {plane} planes, axis {arrangement.axes[0]} of the file, since its voxels are nearly isotropic "
                "and no header states the plane of acquisition; set slice_axis to take others"
            )
        height, width = arrangement.sizes(self.shape)[1:]
        if min(height, width) < _THIN:
            notes.append(
                f"its slices have {height} x {width} pixels; expected {_THIN} or more; "
                "check slice_axis or remove the row"
            )
        return tuple(notes)

    @property
    def _spacing(self) -> list[float]:
        spacing: list[float] = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return spacing

    @property
    def frame_bytes(self) -> int:
        """Size of one frame in the file."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def expected_bytes(self) -> int:
        """Size of the unpacked file by its header."""
        return self.offset + self.frame_bytes * self.num_frames


def parse_header(start: bytes, name: str) -> NiftiHeader:
    """Parse the first `HEADER_BYTES` bytes of a file.

    Raises
    ------
    NotAnImageError
        For CIFTI, Analyze and colours.
    VolumeError
        `unreadable` or `unsupported`.
    """
    kind = next((k for k in (nib.Nifti1Header, nib.Nifti2Header) if k.may_contain_header(start)), None)
    if kind is None:
        if nib.AnalyzeHeader.may_contain_header(start):
            raise NotAnImageError(
                "other image format",
                f"{name}: is an Analyze 7.5 image, which does not tell left from right; expected NIfTI; convert it "
                "with the program that wrote it, or with nibabel",
            )
        raise VolumeError("unreadable", f"{name}: has no NIfTI header; expected NIfTI-1 or -2; correct path or format")
    try:
        header = kind(binaryblock=start[: kind.template_dtype.itemsize], check=False)
        if kind is nib.Nifti2Header and tuple(header["eol_check"].tolist()) not in _LINE_ENDS:
            raise ValueError("line ends were converted")
        num_axes = min(3, max(1, int(header["dim"][0])))
        if header["sform_code"] <= 0 and 0 in header["pixdim"][1 : 1 + num_axes]:  # nibabel would make it 1 mm
            raise ValueError("it states voxels of 0 mm, and no sform")
        header.check_fix(logger=_LOG, error_level=_FAULT_LEVEL)
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
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        raise NotAnImageError("surface", f"{name}: is CIFTI (surfaces, matrices); expected image volumes; name those")
    if not 2 <= len(sizes) <= 7 or min(sizes) < 1:
        raise VolumeError("unsupported", f"{name}: has sizes {sizes}; expected two to four dimensions; convert it")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iufc":
        raise NotAnImageError("derived", f"{name}: has colours ({dtype}); expected magnitudes; name their image")
    is_pair = bytes(header["magic"])[1:2] == b"i"
    offset = int(header.get_data_offset())
    if not (0 if is_pair else header.single_vox_offset) <= offset <= _LARGEST_OFFSET:
        raise VolumeError(
            "unreadable", f"{name}: its data starts at byte {offset}; expected 352 or slightly more; convert it"
        )
    shape = (sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1)
    affine, assumed, notes = _affine(header)
    unit = _unit(header)
    affine[:3] *= _MM_OF[unit]
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
        unit=unit,
        phase_axis=phase_axis,
        slice_axis=slice_axis,
        intent=int(header["intent_code"]),
        intent_name=_text(header["intent_name"]),
        description=_text(header["descrip"]),
        is_vector=len(sizes) > 4 and sizes[3] == 1 and sizes[4] > 1,
        is_pair=is_pair,
        notes=notes,
        acquisition={"source_format": "nifti", "stored_type": dtype.name, **assumed},
    )


def _text(value: Any) -> str:  # noqa: ANN401 - a field of nibabel
    return bytes(value).split(b"\0")[0].decode("latin-1").strip()


def _unit(header: nib.Nifti1Header) -> str:
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:  # a code that the standard does not know
        return "unknown"


def _affine(header: nib.Nifti1Header) -> tuple[Affine, dict[str, str], tuple[str, ...]]:
    """Return the affine in the header's unit, from sform, qform or voxel sizes; the assumptions made, and notes."""
    singular: list[str] = []
    for code, get in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        word = code.removesuffix("_code")
        if int(header[code]) > 0:
            affine = np.asarray(get(), dtype=np.float64)
            if not np.all(np.isfinite(affine)):  # damaged: falling back to other coordinates would go unnoticed
                raise ValueError(f"its {word} is not finite")
            if np.linalg.matrix_rank(affine[:3, :3]) == 3:
                notes = [f"its {one} is singular, so its {word} is used; check its orientation" for one in singular]
                return _LPS_OF_RAS @ affine, {}, tuple(notes)
            singular.append(word)
    affine = _LPS_OF_RAS @ np.asarray(header.get_base_affine(), dtype=np.float64)
    found = f"a singular {' and '.join(singular)}" if singular else "neither sform nor qform"
    assumed = "axes taken as left, anterior, superior"
    note = f"has {found}: {assumed}, as nibabel does; check its orientation, left and right above all"
    return affine, {"orientation": f"assumed: {found}, {assumed}"}, (note,)
