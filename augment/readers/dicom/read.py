"""Find the DICOM volume that a manifest row names, and read it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.manifests.header import Kind
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.convert import Output, convert
from rephase.readers.dicom.facts import Facts, as_list, header_facts, words_of
from rephase.readers.dicom.files import DicomFile, looking_into, read_dataset_of
from rephase.readers.dicom.header import Header, frame_of
from rephase.readers.dicom.index import BELOW, Index, digest_files, index_path, one_at_a_time, series_id
from rephase.readers.dicom.series import Part
from rephase.readers.geometry import Arrangement, arrangement_of
from rephase.readers.volume import Description, Volume, check_limit


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
        As `convert`; `unsupported` for a mosaic that lost its private header.
    """
    conversions = convert(part, where, limit_bytes)
    known = conversions[0].volumes.setdefault((part.kind, part.label, part.te_ms), [])
    if not known:
        known.extend(_found_volumes(part, [output for made in conversions for output in made.outputs], where))
    return known


def _found_volumes(part: Part, outputs: list[Output], where: str) -> list[DicomVolume]:
    if part.is_mixed:
        outputs = [output for output in outputs if output.kind == part.kind and _same_te(part, output)]
    _check_outputs(part, outputs, where)
    facts = part_facts(part)
    volumes = []
    for output in outputs:
        place = _arrangement(output, part.headers[0], facts, where)
        _check_places(part, output, place, where)
        volumes += [DicomVolume(part, output, time, facts, place) for time in range(output.stored.shape[3])]
    return volumes


def _same_te(part: Part, output: Output) -> bool:
    return not part.several_echoes or (output.te_ms is not None and abs(output.te_ms - (part.te_ms or 0)) < 5e-3)


def _check_outputs(part: Part, outputs: Sequence[Output], where: str) -> None:
    rows, columns = part.headers[0].matrix or (0, 0)
    tiled = part.headers[0].is_tiled
    for output in outputs:
        width, height, num_slices, _ = output.stored.shape
        grid = (columns // width, rows // height)
        whole = (columns % width, rows % height) == (0, 0)
        if tiled and (not whole or num_slices > grid[0] * grid[1] or (num_slices == 1 and grid == (1, 1))):
            # dcm2niix takes a picture without the number of its tiles for one slice, and cuts one of another size
            raise VolumeError(
                "unsupported",
                f"{where}: a mosaic of {num_slices} slices in {rows}x{columns} pixels; expected equal tiles, and the "
                "private header that counts them; export it again",
            )
        if not tiled and grid != (1, 1):
            raise VolumeError(
                "incomplete", f"{where}: images of {height}x{width} in files of {rows}x{columns}; export it again"
            )
    found = sum(output.stored.shape[3] * (1 if tiled else output.stored.shape[2]) for output in outputs)
    if found != part.num_images:
        raise VolumeError(
            "incomplete",
            f"{where}: dcm2niix made volumes of {found} of its {part.num_images} images; expected all; sort the files, "
            "or convert them with dcm2niix and name the NIfTI files",
        )


def _check_places(part: Part, output: Output, place: Arrangement, where: str) -> None:
    """Compare the planes with their headers: dcm2niix takes frames of some vendors in the order of the file."""
    if not part.places or not all(len(position) == 3 for position, _ in part.places):
        return
    positions = np.array([position for position, _ in part.places])
    affine = np.array(place.affine)
    found = affine[:3, 3] + np.arange(output.stored.shape[2])[:, None] * affine[:3, 0]
    off_mm = np.linalg.norm(positions[:, None] - found, axis=2)
    if max(off_mm.min(axis=0).max(), off_mm.min(axis=1).max()) > 0.1 + 0.2 * place.spacing_mm[0]:
        raise VolumeError(
            "unsupported",
            f"{where}: dcm2niix places its planes elsewhere than their headers do; expected one regular stack; export "
            "them as classic DICOM, one file a slice",
        )
    if len({scale for _, scale in part.places}) > 1 and output.stored.dtype.kind != "f":
        raise VolumeError(
            "unsupported",
            f"{where}: slope and intercept differ from frame to frame, which dcm2niix ignores; expected one of each; "
            "export it as classic DICOM, one file a slice",
        )


def _arrangement(output: Output, header: Header, facts: Facts, where: str) -> Arrangement:
    """Return rows and columns as DICOM displays them; dcm2niix flips rows, and some stacks."""
    lengths = np.linalg.norm(output.affine[:3, :3], axis=0)
    if not np.isfinite(output.affine).all() or not lengths.all():
        raise VolumeError("unreadable", f"{where}: dcm2niix finds no geometry in its headers; export it again")
    directions = output.affine[:3, :3] / lengths
    cosines = output.cosines if len(output.cosines) == 6 else header.cosines or ()
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
    dataset, group = dataset_and_group(file, kind, te_ms)
    with looking_into(file):
        return header_facts(dataset, group, words_of(dataset, group))


def dataset_and_group(file: DicomFile, kind: Kind, te_ms: float | None) -> tuple[Any, Any]:
    """Read a header; return it and the functional groups of its first frame of a kind and echo time, if it has any."""
    dataset = read_dataset_of(file)
    with looking_into(file):
        groups = as_list(dataset.get("PerFrameFunctionalGroupsSequence"))
        frames = ((group, frame_of(dataset, group)) for group in groups)
        fits = (group for group, frame in frames if frame.kind == kind and te_ms in (None, frame.te_ms))
        return dataset, next(fits, groups[0] if groups else None)


def find_part(row: ManifestRow) -> Part:
    """Find the magnitude part that a row names by `series`, `part` and `echo`, from headers alone.

    Raises
    ------
    VolumeError
        `ambiguous` where several match the row, `mismatch` where none does, `not_magnitude`; as `split_series`.
    """
    if row.slice_axis not in (None, 0):
        found = f"slice_axis {row.slice_axis}"
        raise VolumeError(
            "unsupported", f"{row.path}: {found}; slices of DICOM are its images; expected an empty cell; clear it"
        )
    index, is_folder = index_path(row.path, deep=(row.series or "").startswith(BELOW))
    if row.series is None or not is_folder:
        for error in index.lost.values():
            raise error
    headers = _one_series(index, row, is_folder)
    check_series(index, headers, row.path)
    parts, lost = index.parts(headers, "magnitude", row.path)
    if not parts and not lost:
        # reformatted or otherwise processed magnitude is allowed where a row names it, and `image_type` keeps the word
        # DERIVED for audits; maps and projections are not
        plain = [header for header in headers if header.computed is None and not header.frames]
        parts, lost = index.parts(plain, "derived", row.path) if plain else ([], [])
    if not parts and not lost:
        raise _not_magnitude(headers, row)
    return _one_part(parts, lost, row)


def check_series(index: Index, headers: Sequence[Header], where: str) -> None:
    """Check that no file of a series was damaged so that it no longer counts as its image.

    Raises
    ------
    VolumeError
        `unreadable`.
    """
    kinds = Counter(header.kind for header in headers)
    strange = [header.file for header in headers if header.kind == "non_mr"] if len(kinds) > 1 else []
    for file in [*strange, *index.suspects(headers[0].series)]:
        if file in index.lost:
            raise index.lost[file]
        raise VolumeError(
            "unreadable",
            f"{file}: is no MR image, but belongs to a series of them or is named like them; expected a slice of "
            f"{where}; copy it again",
        )


def _one_series(index: Index, row: ManifestRow, is_folder: bool) -> list[Header]:
    images = index.images
    if not images:
        found = "a DICOM object without an image" if index.headers else "no DICOM images"
        raise VolumeError("unreadable", f"{row.path}: has {found}; expected MR; correct path or format")
    mr = {series: members for series, members in images.items() if any(one.kind != "non_mr" for one in members)}
    if not mr:
        raise VolumeError("unsupported", f"{row.path}: is an image of another modality; expected MR; take the row out")
    if row.series is not None:
        name = row.series.removeprefix(BELOW)
        chosen = next((members for uid, members in mr.items() if name in (uid, series_id(uid))), None)
        if chosen is None:
            raise VolumeError(
                "mismatch",
                f"{row.path}: {_series_list(mr)}; expected the series of the row; correct the column series, or scan "
                "again",
            )
        return chosen
    if len(mr) > 1:
        raise VolumeError(
            "ambiguous",
            f"{row.path}: {_series_list(mr)}; expected one; "
            "name it in the column series ('rephase manifest scan' does)",
        )
    return next(iter(mr.values()))


def _series_list(images: dict[str, list[Header]]) -> str:
    """Describe the series without their UIDs, which are identifying: messages go into the run log."""
    groups = list(images.values())
    shown = [f"{len(group)} {group[0].kind}" for group in groups[:8]]
    more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
    return f"holds {len(groups)} series: {', '.join(shown)}{more}"


def _not_magnitude(headers: Sequence[Header], row: ManifestRow) -> VolumeError:
    words = sorted({header.computed or header.kind for header in headers})
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(h.kind for h in headers).items()))
    stated = "\\".join(word[:24] for word in headers[0].words[:8])
    return VolumeError(
        "not_magnitude",
        f"{row.path}: its images are {', '.join(words)} ({counts}; ImageType {stated}); expected magnitude; "
        "remove the row or name the magnitude series",
    )


def _one_part(parts: Sequence[Part], lost: Sequence[VolumeError], row: ManifestRow) -> Part:
    if lost and (row.part is None or not parts):
        raise lost[0]
    labels = list(dict.fromkeys(part.label for part in parts))
    shown = ", ".join(label or "one part" for label in labels)
    if len(labels) > 1 and row.part is None:
        raise VolumeError("ambiguous", f"{row.path}: holds parts {shown}; expected one; name it in the column part")
    chosen = [part for part in parts if row.part in (None, part.label)]
    if not chosen:
        raise VolumeError("mismatch", f"{row.path}: no part {row.part}; it holds {shown}; correct the column part")
    echoes = {part.echo: part for part in chosen}
    listed = ", ".join(
        f"{echo} (TE {'unknown' if part.te_ms is None else f'{part.te_ms:g} ms'})"
        for echo, part in sorted(echoes.items())
    )
    if len(echoes) > 1 and row.echo is None:
        raise VolumeError("ambiguous", f"{row.path}: holds echoes {listed}; expected one; name it in the column echo")
    if row.echo is None or (len(echoes) == 1 and row.echo == 1):
        return chosen[0]
    if row.echo not in echoes:
        raise VolumeError("mismatch", f"{row.path}: no echo {row.echo}; it holds {listed}; correct the column echo")
    return echoes[row.echo]


def find_volume(row: ManifestRow, limit_bytes: int | None = None) -> DicomVolume:
    """Find the volume that a row names.

    Raises
    ------
    VolumeError
        As `find_part` and `volumes_of`.
    """
    volumes = volumes_of(find_part(row), row.path, limit_bytes)
    if len(volumes) > 1 and row.frame is None:
        raise VolumeError(
            "ambiguous",
            f"{row.path}: holds {len(volumes)} time points; expected one; "
            f"name it (0 to {len(volumes) - 1}) in the column frame",
        )
    frame = row.frame or 0
    if frame >= len(volumes) and volumes[0].part.notes:
        raise VolumeError(
            "incomplete", f"{row.path}: no frame {frame}: {volumes[0].part.notes[-1]}; correct the column"
        )
    if frame >= len(volumes):
        raise VolumeError(
            "mismatch", f"{row.path}: no frame {frame}; it holds 0 to {len(volumes) - 1}; correct the column"
        )
    return volumes[frame]


@one_at_a_time
def read_dicom(row: ManifestRow, limit_bytes: int | None = None) -> Volume:
    """Read the magnitude volume that a row names.

    Parameters
    ----------
    row
        `path` is a file or a folder; of a folder, the files directly in it (below it too, where `series` starts with
        `**/`). `series`, `part`, `echo` (the header's number where these are distinct, else 1, 2, ... by echo time) and
        `frame` (0-based) choose where there are several.
    limit_bytes
        Memory for the volume as float32, for one file unpacked, and for the conversion of its series.

    Raises
    ------
    VolumeError
        With one line: the file or folder, the problem and its fix.
    """
    found = find_volume(row, limit_bytes)
    check_limit(4 * int(np.prod(found.shape, dtype=np.int64)), limit_bytes, row.path)
    values, num_padding = _without_padding(found)
    acquisition = {**found.facts.acquisition, "padding_pixels": num_padding} if num_padding else found.facts.acquisition
    place = found.arrangement
    return Volume(
        magnitude=values,
        spacing_mm=place.spacing_mm,
        affine=place.affine,
        orientation=place.orientation,
        transposed=place.transposed,
        phase_encode=place.phase_encode,
        source_sha256=digest_files([header.file for header in found.part.headers]),
        **known_facts(row, found.facts),
        acquisition={**acquisition, "mosaic": found.part.headers[0].is_tiled},
    )


def _without_padding(found: DicomVolume) -> tuple[NDArray[np.float32], int]:
    """Return the values with 0 for padding that dcm2niix leaves negative, and the number of such pixels."""
    values, padding, output = found.values(), found.part.headers[0].padding, found.output
    if padding is None or output.stored.dtype.kind != "i":
        return values, 0
    bits = 8 * output.stored.dtype.itemsize
    signed = (padding + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)  # many files write it as unsigned
    level = np.float32(signed * output.slope + output.intercept)
    outside = values == level
    if level >= 0 or not outside.any():
        return values, 0
    values[outside] = 0.0
    return values, int(outside.sum())


@one_at_a_time
def describe_dicom(row: ManifestRow) -> Description:
    """Describe the volume that a row names; see `read_dicom`."""
    found = find_volume(row)
    return Description(found.shape, found.arrangement.spacing_mm)


@one_at_a_time
def digest_dicom(row: ManifestRow) -> str:
    """Return the `source_sha256` of the volume that a row names: of all files of its part of the series."""
    return digest_files([header.file for header in find_part(row).headers])
