"""Read a file in a simpler way, and compare the volume of a reader with it exactly."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray

from rephase.manifests.record import ManifestRow
from rephase.readers.volume import Volume

_MM_OF = (1.0, 1000.0, 1.0, 1e-3, 1.0, 1.0, 1.0, 1.0)  # by the code of the unit in NIfTI
_MOST_SKEWED = 1e6  # an affine that is worse tells no place of any voxel, and ours is another one
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def difference(target: str, row: ManifestRow, volume: Volume) -> str | None:
    """Describe how a volume differs from the simple reading of its file; None where they are equal."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return _COMPARE[target](row, volume)


def _nifti(row: ManifestRow, volume: Volume) -> str | None:
    data = _unpacked(Path(row.path))
    kind = nib.Nifti1Image if nib.Nifti1Header.may_contain_header(data[:540]) else nib.Nifti2Image
    image = kind.from_bytes(data)
    values = np.asanyarray(image.dataobj)
    values = values.reshape((*values.shape[:3], *(1,) * (3 - min(values.ndim, 3)), -1), order="F")[..., row.frame or 0]
    values = _magnitude(values)
    if "orientation" in volume.acquisition or not np.linalg.cond(image.affine) < _MOST_SKEWED:
        return _same_multiset(values, volume.magnitude)
    affine = _RAS_TO_LPS @ image.affine
    affine[:3] *= _MM_OF[int(image.header["xyzt_units"]) & 7]
    step = np.linalg.inv(affine) @ np.array(volume.affine)
    if not np.allclose(step, np.rint(step), atol=0.05):
        return _same_multiset(values, volume.magnitude)
    grid = np.indices(volume.magnitude.shape).reshape(3, -1)
    at = np.rint(step[:3, :3] @ grid + step[:3, 3:]).astype(int)
    if at.min() < 0 or (at.max(axis=1) >= values.shape).any():
        return "its affine leads out of the file's array"
    return _same(values[tuple(at)].reshape(volume.magnitude.shape), volume.magnitude)


def _array(row: ManifestRow, volume: Volume) -> str | None:
    values = np.load(row.path, allow_pickle=False)
    return _same(_magnitude(values.reshape((-1, *values.shape[-2:]))), volume.magnitude)


def _hdf5(row: ManifestRow, volume: Volume) -> str | None:
    with h5py.File(row.path, "r") as file:
        if row.kspace:
            return _spectrum(file["kspace"][()], volume)
        keys = (row.dataset,) if row.dataset else ("reconstruction_esc", "reconstruction_rss")
        found = [_magnitude(file[key][()]) for key in keys if key in file]
    shaped = [values.reshape((-1, *values.shape[-2:])) for values in found]
    if any(values.shape == volume.magnitude.shape and np.array_equal(values, volume.magnitude) for values in shaped):
        return None
    return "is none of the file's data sets"


def _spectrum(kspace: NDArray[Any], volume: Volume) -> str | None:
    if kspace.ndim != 3:
        return None  # coils are combined: judged by the tests of that
    image = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1)))
    height, width = volume.magnitude.shape[1:]
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    image = image[:, top : top + height, left : left + width]
    close = image.shape == volume.magnitude.shape and np.allclose(image, volume.magnitude, atol=1e-5 * image.max())
    return None if close else "is not the image of the k-space"


def _dicom(row: ManifestRow, volume: Volume) -> str | None:
    path = Path(row.path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    planes: list[tuple[float, NDArray[np.float32]]] = []
    for file in files:
        planes += _planes(pydicom.dcmread(io.BytesIO(_unpacked(file)), force=True))
    if volume.acquisition.get("mosaic"):
        whole = np.concatenate([plane.reshape(-1) for _, plane in planes])
        counts = np.unique(whole, return_counts=True)
        ours = np.unique(volume.magnitude, return_counts=True)
        theirs = dict(zip(*(array.tolist() for array in counts), strict=True))
        enough = all(theirs.get(value, 0) >= count for value, count in zip(*(a.tolist() for a in ours), strict=True))
        return None if enough else "has values that are not in the mosaic"
    ordered = [plane.T if volume.transposed else plane for _, plane in sorted(planes, key=lambda pair: pair[0])]
    if len(ordered) == len(volume.magnitude):
        expected = np.stack(ordered)
        # NIfTI, between dcm2niix and us, stores slope and intercept as float32
        close = expected.shape == volume.magnitude.shape and np.allclose(
            expected, volume.magnitude, rtol=3e-7, atol=1e-6
        )
        return None if close else _same(expected, volume.magnitude)
    inside = all(any(np.array_equal(ours, plane) for plane in ordered) for ours in volume.magnitude)
    return None if inside else "has a plane that is in none of its files"


def _planes(dataset: pydicom.Dataset) -> list[tuple[float, NDArray[np.float32]]]:
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        encoded = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else encoded
    pixels = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    unused = pixels.dtype.itemsize * 8 - int(dataset.get("BitsStored") or pixels.dtype.itemsize * 8)
    if unused > 0 and not pydicom.uid.UID(dataset.file_meta.TransferSyntaxUID).is_compressed:
        pixels = pixels.astype(pixels.dtype.newbyteorder("=")) << unused >> unused
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
    found = []
    for plane, group in zip(pixels, groups, strict=False):
        slope, intercept = (_number(dataset, group, word) for word in ("RescaleSlope", "RescaleIntercept"))
        values = plane.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)
        values = values.astype(np.float32)
        found.append((_depth(dataset, group), values))
    return found


def _number(dataset: pydicom.Dataset, group: pydicom.Dataset | None, word: str) -> float | None:
    shared = dataset.get("SharedFunctionalGroupsSequence")
    for place in (group, shared[0] if group is not None and shared else None):
        items = place.get("PixelValueTransformationSequence") if place is not None else None
        if items and items[0].get(word) not in (None, ""):
            return float(items[0].get(word))
    value = dataset.get(word)
    return None if value in (None, "") else float(value)


def _depth(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> float:
    def get(sequence: str, word: str) -> Any:
        shared = dataset.get("SharedFunctionalGroupsSequence")
        for place in (group, shared[0] if group is not None and shared else None):
            items = place.get(sequence) if place is not None else None
            if items and items[0].get(word) is not None:
                return items[0].get(word)
        return dataset.get(word)

    cosines = np.array(get("PlaneOrientationSequence", "ImageOrientationPatient"), float)
    position = np.array(get("PlanePositionSequence", "ImagePositionPatient"), float)
    return float(np.cross(cosines[:3], cosines[3:]) @ position)


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _magnitude(values: NDArray[Any]) -> NDArray[np.float32]:
    return (np.abs(values.astype(np.complex64)) if values.dtype.kind == "c" else values).astype(np.float32)


def _same(expected: NDArray[Any], found: NDArray[Any]) -> str | None:
    if expected.shape != found.shape:
        return f"has shape {found.shape}; the file says {expected.shape}"
    wrong = int(np.count_nonzero(expected != found))
    return f"differs from the file in {wrong} of {found.size} voxels" if wrong else None


def _same_multiset(expected: NDArray[Any], found: NDArray[Any]) -> str | None:
    return _same(np.sort(expected, axis=None), np.sort(found, axis=None))


_COMPARE = {"nifti": _nifti, "npy": _array, "hdf5": _hdf5, "dicom": _dicom}
