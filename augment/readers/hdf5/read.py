"""Read one magnitude volume from HDF5: fastMRI files by their known names, other files by a named dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.hdf5_files import open_hdf5
from rephase.ismrmrd_header import FastmriFacts, fastmri_facts
from rephase.manifests.header import Kind, Passed, Probed, SeriesHeader
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement, as_displayed
from rephase.readers.hdf5.fastmri import (
    KSPACE,
    RECONSTRUCTIONS,
    image_sizes,
    is_kspace,
    phase_generator,
    read_image,
    read_magnitude,
)
from rephase.readers.hdf5.foreign import kind_of_file
from rephase.readers.hdf5.links import chunk_bytes, find_object, lies_elsewhere, named_dataset
from rephase.readers.npy import as_volume, plain_volume
from rephase.readers.sources import hash_file, hash_location, local_path
from rephase.readers.volume import Description, PhaseEncode, Volume, check_limit, refuse_vanished
from rephase.text import one_line

_LARGEST_TEXT = 1 << 24


def read(row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement]:
    """Read a fastMRI reconstruction, the dataset that the row names, or the image of the row's `kspace` file.

    Of raw data without a reconstruction, the magnitude of the image is computed, for several coils the root sum of
    squares. `dataset` = `kspace` selects this even if the file has a reconstruction.

    Raises
    ------
    VolumeError
        `missing`, `unreadable`, `unsupported`, `ambiguous` (no dataset named), `not_magnitude`, `mismatch` (no such
        dataset), `not_finite` (k-space) or `too_large`.
    """
    name = row.kspace or row.path
    with local_path(name) as path, _opened(path, name) as file:
        facts = _facts(file, name)
        values = read_image(file, name, facts, limit_bytes) if row.kspace else _values(file, row, facts, limit_bytes)
        sha256 = hash_file(path)
    arrangement = _arrange(values.shape, row, facts)
    volume, _ = plain_volume(row, values, arrangement, sha256, "hdf5", spacing_known=facts.spacing_mm is not None)
    return replace(volume, **known_facts(row, facts)), arrangement


def describe(row: ManifestRow) -> Description:
    """Describe the volume without reading the data."""
    name = row.kspace or row.path
    with local_path(name) as path, _opened(path, name) as file:
        facts = _facts(file, name)
        chosen = None if row.kspace else _chosen(file, row)
        if chosen is None or is_kspace(chosen):
            return Description(image_sizes(file, name, facts), facts.spacing_mm)
        shape = as_volume(_empty(chosen), name).shape
        return Description(_arrange(shape, row, facts).sizes(shape), facts.spacing_mm)


def digest(row: ManifestRow) -> str:
    """Return the SHA-256 of the file."""
    return hash_location(row.kspace or row.path)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[h5py.File]:
    try:
        with open_hdf5(path) as file:
            yield file
    except VolumeError:
        raise
    # ValueError, TypeError: types, sizes and attributes that NumPy does not have
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise VolumeError(
            "unreadable", f"{name}: cannot be read ({one_line(error)}); expected HDF5; fetch it again or correct format"
        ) from error


def _facts(file: h5py.File, name: str) -> FastmriFacts:
    header, text = find_object(file, "ismrmrd_header", name), None
    if isinstance(header, h5py.Dataset) and header.shape == () and not lies_elsewhere(header):
        text = header[()] if header.dtype.itemsize <= _LARGEST_TEXT else None
    acquisition = None
    # the other attributes are not read: they may be damaged, and of any type and size
    with suppress(KeyError, OSError, RuntimeError, TypeError, ValueError):
        if file.attrs.get_id("acquisition").get_storage_size() <= _LARGEST_TEXT:
            acquisition = file.attrs["acquisition"]
    return fastmri_facts(text, acquisition)


def _arrange(shape: tuple[int, ...], row: ManifestRow, facts: FastmriFacts) -> Arrangement:
    # fastMRI's axes are those of the corpus: height is readout, width is phase encoding
    phase_encode: PhaseEncode = "row" if facts.recon_size and row.slice_axis in (None, 0) else "assumed"
    spacing = facts.spacing_mm or (1.0, 1.0, 1.0)
    return as_displayed(shape, spacing, slice_axis=row.slice_axis or 0, phase_encode=phase_encode)


def _chosen(file: h5py.File, row: ManifestRow) -> h5py.Dataset:
    if row.dataset is not None:
        return named_dataset(file, row.dataset, row.path)
    known = [key for key in RECONSTRUCTIONS if find_object(file, key, row.path) is not None]
    if known:
        # a single-coil file has both: esc is its own target, rss that of the multi-coil original
        kspace = find_object(file, "kspace", row.path)
        single = "reconstruction_esc" in known and getattr(kspace, "ndim", 3) == 3
        return named_dataset(file, "reconstruction_esc" if single else known[0], row.path)
    if find_object(file, KSPACE, row.path) is not None:
        return named_dataset(file, KSPACE, row.path)
    kind, what = kind_of_file(file)
    raise VolumeError(
        "ambiguous" if kind in ("other image format", "no image") else "unsupported", f"{row.path}: {what}"
    )


def _values(file: h5py.File, row: ManifestRow, facts: FastmriFacts, limit_bytes: int | None) -> NDArray[Any]:
    dataset = _chosen(file, row)
    if is_kspace(dataset):
        return read_magnitude(file, row.path, facts, limit_bytes)
    as_volume(_empty(dataset), row.path)
    check_limit(dataset.size * (dataset.dtype.itemsize + 8) + chunk_bytes(dataset), limit_bytes, row.path)
    with np.errstate(over="ignore"):
        values = dataset[()].astype(np.complex64 if dataset.dtype.kind == "c" else np.float32)
    refuse_vanished(values, lambda: float(np.abs(dataset[()]).max()), row.path)
    return as_volume(values, row.path)


def _empty(dataset: h5py.Dataset) -> NDArray[Any]:
    """Return an array of the dataset's type and shape without memory, to check both before reading."""
    return np.broadcast_to(np.zeros((), dataset.dtype), dataset.shape or ())


def probe(files: Iterable[Path]) -> Probed:
    """Describe the volumes in fastMRI files; of other HDF5 files, tell what they are."""
    found = Probed()
    for path in files:
        row = ManifestRow(line=0, volume_id="", path=str(path))
        try:
            with _opened(path, str(path)) as file:
                if any(find_object(file, key, row.path) is not None for key in (*RECONSTRUCTIONS, KSPACE)):
                    found.headers.extend(_headers(path, file, row))
                else:
                    kind, what = kind_of_file(file)
                    found.passed.append(Passed(path, kind, f"{path}: {what}"))
        except VolumeError as error:
            found.unreadable.append((path, str(error)))
    return found


def _headers(path: Path, file: h5py.File, row: ManifestRow) -> list[SeriesHeader]:
    facts = _facts(file, row.path)
    headers = []
    if any(find_object(file, key, row.path) is not None for key in RECONSTRUCTIONS):
        shape = as_volume(_empty(_chosen(file, row)), row.path).shape
        headers.append(_header(path, file, facts, "magnitude", _arrange(shape, row, facts).sizes(shape)))
    if find_object(file, KSPACE, row.path) is None or phase_generator(file):
        return headers
    if find_object(file, "mask", row.path) is not None:  # fastMRI's test files are undersampled
        shape = named_dataset(file, KSPACE, row.path).shape
        return headers or [_header(path, file, facts, "unsupported", (shape[0], shape[-2], shape[-1]))]
    sizes = image_sizes(file, row.path, facts)
    if not headers:  # raw data alone: the magnitude is that of its image
        headers.append(_header(path, file, facts, "magnitude", sizes))
    return [*headers, _header(path, file, facts, "kspace", sizes)]


def _header(path: Path, file: h5py.File, facts: FastmriFacts, kind: Kind, sizes: tuple[int, int, int]) -> SeriesHeader:
    patient = file.attrs.get("patient_id")
    return SeriesHeader(
        path=path,
        format="hdf5",
        kind=kind,
        series_key=str(path),
        num_slices=sizes[0],
        height=sizes[1],
        width=sizes[2],
        subject_key=None if patient is None else str(patient),
        pair_key=str(path),
        **known_facts(facts),
        spacing_mm=facts.spacing_mm,
    )
