"""Find the DICOM volume that a manifest row names, and the measured phase that belongs to it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pydicom
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.convert import Output, convert
from rephase.readers.dicom.facts import Elements, Facts, as_list, header_facts
from rephase.readers.dicom.files import DicomFile, open_dicom
from rephase.readers.dicom.header import Header, frame_of
from rephase.readers.dicom.index import BELOW, Index, index_path, series_id
from rephase.readers.dicom.series import Part
from rephase.readers.geometry import Arrangement, arrangement_of
from rephase.readers.image_type import computed_word

T = TypeVar("T")


@dataclass(frozen=True)
class DicomVolume:
    """One volume: its part, the output of dcm2niix that holds it, and its place in that."""

    part: Part
    output: Output
    time: int
    facts: Facts
    arrangement: Arrangement

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, height, width."""
        return self.arrangement.sizes(self.output.stored.shape[:3])

    def values(self) -> NDArray[np.float32]:
        """Return the values, `(slice, height, width)`."""
        stored = self.arrangement.arrange(self.output.stored[..., self.time])
        with np.errstate(over="ignore"):  # infinities are refused, with their place, by `prepare_magnitude`
            scaled = stored.astype(np.float64) * self.output.slope + self.output.intercept
            return np.ascontiguousarray(scaled.astype(np.float32))


def volumes_of(part: Part, where: str, limit_bytes: int | None = None) -> list[DicomVolume]:
    """Convert a part; return its volumes in the order of time.

    Raises
    ------
    VolumeError
        As `convert`; `incomplete` or `unsupported` where dcm2niix leaves images out or misplaces them.
    """
    conversions = convert(part, where, limit_bytes)
    known = conversions[0].volumes.setdefault((part.kind, part.label, part.te_ms), [])
    if not known:
        outputs = [output for made in conversions for output in made.outputs]
        if part.is_mixed:
            outputs = [output for output in outputs if output.kind == part.kind and _same_te(part, output)]
        _check_outputs(part, outputs, where)
        facts = part_facts(part)
        for output in outputs:
            place = _arrangement(output, part.headers[0], facts, where)
            _check_places(part, output, place, where)
            known += [DicomVolume(part, output, time, facts, place) for time in range(output.stored.shape[3])]
    return known


def _same_te(part: Part, output: Output) -> bool:
    return not part.several_echoes or (output.te_ms is not None and abs(output.te_ms - (part.te_ms or 0)) < 5e-3)


def _check_outputs(part: Part, outputs: Sequence[Output], where: str) -> None:
    rows, columns = part.headers[0].matrix or (0, 0)
    tiled = part.headers[0].is_tiled
    for width, height, num_slices, _ in (output.stored.shape for output in outputs):
        grid, rest = (columns // width, rows // height), (columns % width, rows % height)
        if tiled and (rest != (0, 0) or num_slices > grid[0] * grid[1] or (num_slices == 1 and grid == (1, 1))):
            # dcm2niix takes a picture without the number of its tiles for one slice, and cuts one of another size
            raise VolumeError(
                "unsupported",
                f"{where}: a mosaic of {num_slices} slices in {rows}x{columns} pixels; expected equal tiles, and the "
                "private header that counts them; export it again",
            )
        if not tiled and (width, height) != (columns, rows):
            found = f"{where}: images of {height}x{width} in files of {rows}x{columns}"
            raise VolumeError("incomplete", f"{found}; expected one size; export it again")
    found = sum(output.stored.shape[3] * (1 if tiled else output.stored.shape[2]) for output in outputs)
    if found != part.num_images:
        raise VolumeError(
            "incomplete",
            f"{where}: dcm2niix made volumes of {found} of its {part.num_images} images; expected all; sort the files, "
            "or convert them with dcm2niix and name the NIfTI files",
        )


def _check_places(part: Part, output: Output, place: Arrangement, where: str) -> None:
    """Compare the planes with their headers: dcm2niix takes frames of some vendors in the order of the file."""
    if not part.planes or not all(len(plane.position) == 3 for plane in part.planes):
        return
    affine = np.array(place.affine)
    found = affine[:3, 3] + np.arange(output.stored.shape[2])[:, None] * affine[:3, 0]
    off_mm = np.linalg.norm(np.array([plane.position for plane in part.planes])[:, None] - found, axis=2)
    wrong = None
    if max(off_mm.min(axis=0).max(), off_mm.min(axis=1).max()) > 0.1 + 0.2 * place.spacing_mm[0]:
        wrong = "dcm2niix places its planes elsewhere than their headers do; expected one regular stack"
    if len({plane.scale for plane in part.planes}) > 1 and output.stored.dtype.kind != "f":
        wrong = "slope and intercept differ from frame to frame, which dcm2niix ignores; expected one of each"
    if wrong is not None:
        raise VolumeError("unsupported", f"{where}: {wrong}; export it as classic DICOM, one file a slice")


def _arrangement(output: Output, header: Header, facts: Facts, where: str) -> Arrangement:
    """Return rows and columns as DICOM displays them; dcm2niix flips rows, and some stacks."""
    lengths = np.linalg.norm(output.affine[:3, :3], axis=0)
    if not np.isfinite(output.affine).all() or not lengths.all():
        raise VolumeError("unreadable", f"{where}: dcm2niix finds no geometry in its headers; export it again")
    directions = output.affine[:3, :3] / lengths
    cosines = output.cosines if len(output.cosines) == 6 else header.frames[0].cosines
    flip_width, flip_height = False, True
    if len(cosines) == 6:
        flip_width = bool(directions[:, 0] @ cosines[:3] < 0)
        flip_height = bool(directions[:, 1] @ cosines[3:] < 0)
    grown = np.cross(directions[:, 0] * (1 - 2 * flip_width), directions[:, 1] * (1 - 2 * flip_height))
    flip_slice = bool(directions[:, 2] @ grown < 0)
    axes, flips = (2, 1, 0), (flip_slice, flip_height, flip_width)
    transposed = facts.phase_encode == "column"
    if transposed:
        axes, flips = (2, 0, 1), (flip_slice, flip_width, flip_height)
    return arrangement_of(output.affine, output.stored.shape[:3], axes, flips, transposed, facts.phase_encode)


def part_facts(part: Part) -> Facts:
    """Return the facts of a part, from the header of its first file."""
    facts = _facts(part.headers[0].file, part.kind, part.te_ms if part.is_mixed else None)
    te_ms = part.te_ms or facts.te_ms
    acquisition = {**facts.acquisition, "num_files": len(part.headers), "source_format": "dicom"}
    if len({header.varied[:1] for header in part.headers}) > 1:
        acquisition.pop("ti_ms", None)  # it differs between the time points
    return replace(facts, te_ms=te_ms if te_ms and te_ms > 0 else None, acquisition=acquisition)


@functools.lru_cache(maxsize=256)
def _facts(file: DicomFile, kind: Kind, te_ms: float | None) -> Facts:
    """Return the facts of the first frame of a kind and echo time."""
    with open_dicom(file) as found:
        dataset = found[0] if found else pydicom.Dataset()
        groups = as_list(dataset.get("PerFrameFunctionalGroupsSequence"))
        frames = ((group, frame_of(Elements(dataset, group))) for group in groups)
        fits = (group for group, frame in frames if frame.kind == kind and te_ms in (None, frame.te_ms))
        return header_facts(dataset, next(fits, groups[0] if groups else None))


def _choose(found: Mapping[Any, T], wanted: object, row: ManifestRow, column: str, names: Sequence[object]) -> T:
    """Return what a cell of a row selects; the only one where it is empty."""
    listed = ", ".join(map(str, names[:8])) + (" and more" if len(names) > 8 else "")
    if wanted is None and len(found) > 1:
        raise VolumeError(
            "ambiguous",
            f"{row.path}: holds {len(found)} {column}: {listed}; expected one; name it in the column {column} "
            "('rephase manifest scan' does)",
        )
    if wanted is not None and wanted not in found:
        raise VolumeError(
            "mismatch",
            f"{row.path}: no {column} {wanted}; it holds {listed}; correct the column {column}, or scan again",
        )
    return next(iter(found.values())) if wanted is None else found[wanted]


def find_part(row: ManifestRow, path: str) -> Part:
    """Find the magnitude part that a row names by `series`, `part` and `echo`, from headers alone.

    Raises
    ------
    VolumeError
        `ambiguous` where several match the row, `mismatch` where none does, `not_magnitude`; as `split_series`.
    """
    if row.slice_axis not in (None, 0):
        found = f"slice_axis {row.slice_axis}; slices of DICOM are its images"
        raise VolumeError("unsupported", f"{row.path}: {found}; expected an empty cell; clear it")
    index, is_folder = index_path(path, deep=(row.series or "").startswith(BELOW))
    if row.series is None or not is_folder:
        for error in index.lost.values():
            raise error
    headers = _one_series(index, row)
    index.check(headers, row.path)
    parts, lost = index.parts(headers, "magnitude", row.path)
    if not parts and not lost:
        # reformatted or otherwise processed magnitude is allowed where a row names it, and `image_type` keeps the word
        # DERIVED for audits; maps and projections are not
        plain = [header for header in headers if computed_word(header.words) is None and not header.is_multi]
        parts, lost = index.parts(plain, "derived", row.path) if plain else ([], [])
    if not parts and not lost:
        words = sorted({computed_word(header.words) or header.kind for header in headers})
        stated = "\\".join(word[:24] for word in headers[0].words[:8])
        raise VolumeError(
            "not_magnitude",
            f"{row.path}: its {len(headers)} images are {', '.join(words)} (ImageType {stated}); expected magnitude; "
            "remove the row or name the magnitude series",
        )
    if lost and (row.part is None or not parts):
        raise lost[0]
    labels = list(dict.fromkeys(part.label for part in parts))
    label = _choose({label: label for label in labels}, row.part, row, "part", labels)
    echoes = {part.echo: part for part in parts if part.label == label}
    names = [f"{echo} (TE {part.te_ms or 0:g} ms)" for echo, part in sorted(echoes.items())]
    only_one = len(echoes) == 1 and row.echo == 1
    return _choose(echoes, None if only_one else row.echo, row, "echo", names)


def _one_series(index: Index, row: ManifestRow) -> list[Header]:
    mr = {series_id(uid): members for uid, members in index.series.items() if any(h.kind != "non_mr" for h in members)}
    if not mr:
        found = "no DICOM images" if not index.headers else "a DICOM object without an image"
        if index.series:
            raise VolumeError(
                "unsupported", f"{row.path}: is an image of another modality; expected MR; take the row out"
            )
        raise VolumeError("unreadable", f"{row.path}: has {found}; expected MR; correct path or format")
    name = None if row.series is None else row.series.removeprefix(BELOW)
    # UIDs, which are identifying, are not shown: messages go into the run log
    wanted = name if name is None or name in mr else series_id(name)
    return _choose(mr, wanted, row, "series", [f"{len(group)} {group[0].kind}" for group in mr.values()])


def find_volume(row: ManifestRow, path: str, limit_bytes: int | None = None) -> DicomVolume:
    """Find the volume that a row names; `path` is the local one of the row.

    Raises
    ------
    VolumeError
        As `find_part` and `volumes_of`.
    """
    volumes = dict(enumerate(volumes_of(find_part(row, path), row.path, limit_bytes)))
    if row.frame is not None and row.frame not in volumes and volumes[0].part.notes:
        note = volumes[0].part.notes[-1]
        raise VolumeError("incomplete", f"{row.path}: no frame {row.frame}: {note}; correct the column")
    return _choose(volumes, row.frame, row, "frame", [f"0 to {len(volumes) - 1}"])


def find_phase(row: ManifestRow, path: str, phase: str, limit_bytes: int | None) -> DicomVolume:
    """Find the phase with the grid and echo time of a row's magnitude; of several, that of the same time.

    Raises
    ------
    VolumeError
        `mismatch` where no phase fits, `ambiguous` where several do; as `find_volume`.
    """
    magnitude = find_volume(row, path, limit_bytes)
    index, _ = index_path(phase)
    found: list[DicomVolume] = []
    for series, headers in index.series.items():
        parts, lost = index.parts(headers, "phase", phase)
        for part in parts:
            try:
                found += volumes_of(part, phase, limit_bytes)
            except VolumeError as error:
                lost = [*lost, error]
        if lost and series == magnitude.part.headers[0].series:
            raise lost[0]
    found = [one for one in found if _fits(one, magnitude)]
    if len(found) > 1:
        when = magnitude.part.acquired, magnitude.time
        found = [one for one in found if (one.part.acquired, one.time) == when] or found
    if len(found) != 1:
        count = f"{len(found)} phase volumes" if found else "no phase"
        raise VolumeError(
            "ambiguous" if found else "mismatch",
            f"{row.phase}: {count} with the grid and echo time of {row.path}; expected one; correct the column phase, "
            "or put it into a folder of its own",
        )
    return found[0]


def _fits(phase: DicomVolume, magnitude: DicomVolume) -> bool:
    te_ms = (phase.part.te_ms, magnitude.part.te_ms)
    same_te = None in te_ms or abs((te_ms[0] or 0) - (te_ms[1] or 0)) < 1e-3
    grids = (phase.arrangement.affine, magnitude.arrangement.affine)
    return same_te and phase.shape == magnitude.shape and bool(np.allclose(*grids, atol=0.05))


def radians(phase: DicomVolume) -> NDArray[np.float32]:
    """Return phase in radians if its header states the unit, or maps all stored values on one cycle; else as stored."""
    slope, intercept = (*(phase.part.planes or phase.part.headers[0].frames)[0].scale, 0.0, 0.0)[:2]
    width = abs(slope) * 2.0 ** phase.facts.acquisition.get("bits_stored", 0)
    cycle = {"MRAD": 2000 * math.pi, "RAD": 2 * math.pi}.get(phase.facts.unit)
    if cycle is None and intercept < 0 and abs(width + 2 * intercept) < 0.005 * width:
        cycle = -2 * intercept
    return phase.values() * np.float32(2 * math.pi / cycle if cycle else 1)
