"""Reads one magnitude volume out of DICOM: classic slices, Enhanced multi-frame objects, Siemens mosaics."""

from __future__ import annotations

from augment.errors import VolumeError
from augment.readers.dicom_bytes import combine_digests, hash_file
from augment.readers.dicom_geometry import Placement, place_frames
from augment.readers.dicom_load import load_frames, load_values, sources_of
from augment.readers.dicom_select import select_stack
from augment.volume import Volume
from manifests.record import ManifestRow


def read_dicom(row: ManifestRow, limit_bytes: int | None = None) -> Volume:
    """Read the magnitude volume that a row names.

    Parameters
    ----------
    row
        `path` is a file or a folder; of a folder, the files directly in it. `series`, `echo` (the header's number where
        these are distinct, else 1, 2, ... by echo time) and `frame` (0-based) choose where there are several.
    limit_bytes
        Largest volume (as float32) and largest unpacked file; known from the header before anything is decoded.

    Raises
    ------
    VolumeError
        With one line that names the file or folder, what is wrong with it and how to mend it.
    """
    placement = place_magnitude(row)
    loaded = load_values(placement, limit_bytes, row.path)
    first = placement.frames[0]
    facts = first.facts
    return Volume(
        magnitude=loaded.values,
        spacing_mm=placement.spacing_mm,
        affine=placement.affine,
        orientation=placement.orientation,
        transposed=placement.transposed,
        phase_encode=placement.phase_encode,
        source_sha256=combine_digests(list(loaded.digests.values())),
        te_ms=row.te_ms if row.te_ms is not None else first.te_ms or None,
        field_t=row.field_t if row.field_t is not None else facts.field_t,
        contrast=row.contrast or facts.contrast,
        anatomy=row.anatomy or facts.anatomy,
        acquisition={**facts.acquisition, **loaded.found, "source_format": "dicom", "mosaic": first.tile is not None},
    )


def describe_dicom(row: ManifestRow) -> tuple[int, int, int]:
    """Say the shape (slices, height, width) of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `read_dicom`, as far as headers tell.
    """
    return place_magnitude(row).shape


def hash_dicom(row: ManifestRow) -> str:
    """Say the `source_sha256` of the volume that a row names without decoding a pixel.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    return combine_digests([hash_file(source) for source in sources_of(place_magnitude(row))])


def place_magnitude(row: ManifestRow) -> Placement:
    """Find the frames of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    if row.slice_axis not in (None, 0):
        found = f"slice_axis {row.slice_axis}"
        raise VolumeError("unsupported", f"{row.path}: {found}; slices of DICOM are its images; leave the column empty")
    frames, is_folder = load_frames(row.path, row.series)
    # Who names one file of a series wants that slice; who names the folder wants the series whole.
    return place_frames(select_stack(frames, row).frames, row.path, all_files=is_folder)
