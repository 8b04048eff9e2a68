"""Valid files that cases start from: written here, or taken from the wheels of nibabel and pydicom."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import phantom_corpus
import phantom_dicom
import torch
from numpy.typing import NDArray

from rephase.corpus.index_writer import write_index
from rephase.diffusion.checkpoint import save_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet, NetworkConfig

DATA = Path(os.environ.get("REPHASE_FUZZ_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Further real files, where it exists: a folder of DICOM (`.dcm`, `.dcm.gz`) and NIfTI."""

_LARGEST_SEED = 400_000
_MANIFEST_COLUMNS = (
    "volume_id", "path", "format", "subject_id", "split", "contrast", "field_t", "te_ms", "slice_axis", "replicas",
    "num_slices", "licence", "segmentation",
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """Valid files by relative path, and the manifest row (or other arguments) to read them."""

    name: str
    target: str
    files: dict[str, bytes]
    path: str = ""
    row: dict[str, Any] = field(default_factory=dict)


def seeds(target: str) -> list[Seed]:
    """Return the seeds of one target, always in the same order."""
    return _MAKERS[target]()


def phantom(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Return Rayleigh noise around a bright block, in whole numbers that every stored type can represent."""
    values = np.random.default_rng(seed).rayleigh(20, shape)
    values[tuple(slice(n // 4, max(n // 4 + 1, n - n // 4)) for n in shape)] += 60
    return np.rint(values).astype(np.float32)


@cache
def _nifti() -> list[Seed]:
    affine = np.array([[-2.0, 0, 0, 20], [0, 1.5, 0, -30], [0, 0, 4, 5], [0, 0, 0, 1]])
    made = {
        "int16.nii": (nib.Nifti1Image, phantom((9, 8, 5)).astype(np.int16), "<"),
        "float32.nii.gz": (nib.Nifti1Image, phantom((9, 8, 5), 1), "<"),
        "big-endian.nii": (nib.Nifti1Image, phantom((9, 8, 5), 2).astype(np.int16), ">"),
        "nifti2.nii": (nib.Nifti2Image, phantom((7, 8, 5), 3).astype(np.float32), "<"),
        "frames.nii.gz": (nib.Nifti1Image, phantom((8, 8, 4, 3), 4).astype(np.uint8), "<"),
        "complex.nii": (nib.Nifti1Image, phantom((6, 8, 4), 5).astype(np.complex64), "<"),
    }
    found = []
    for name, (kind, values, order) in made.items():
        image = kind(values, affine, kind.header_class(endianness=order))
        image.header.set_data_dtype(values.dtype)
        if name == "int16.nii":
            image.header.set_slope_inter(0.5, 3.0)
        plain = image.to_bytes()
        row = {"frame": 1} if values.ndim == 4 else {}
        stored = gzip.compress(plain, mtime=0) if name.endswith("gz") else plain
        found.append(Seed(name, "nifti", {name: stored}, name, row))
    wheel = importlib.resources.files("nibabel") / "tests" / "data"
    for name in ("anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz"):
        row = {} if name == "anatomical.nii" else {"frame": 0}
        found.append(Seed(name, "nifti", {name: (wheel / name).read_bytes()}, name, row))
    return found + list(_shared("nifti", "*.nii.gz"))


@cache
def _dicom() -> list[Seed]:
    found = [
        Seed("classic", "dicom", _series([phantom_dicom.classic(k) for k in range(3)]), "series"),
        Seed("column", "dicom", _series([phantom_dicom.classic(k, InPlanePhaseEncodingDirection="COL", RescaleSlope=2,
                                                               RescaleIntercept=5) for k in range(3)]), "series"),
        Seed("packed", "dicom", {"one.dcm.gz": gzip.compress(_saved(phantom_dicom.classic(0)), mtime=0)}, "one.dcm.gz"),
        Seed("enhanced", "dicom", {"e.dcm": _saved(phantom_dicom.enhanced([{"index": k, "slope": k + 1} for k in
                                                                            range(3)]))}, "e.dcm"),
        Seed("mosaic", "dicom", {"m.dcm": _saved(phantom_dicom.mosaic(4))}, "m.dcm"),
    ]  # fmt: skip
    wheel = importlib.resources.files("pydicom") / "data" / "test_files"
    for word in ("", "_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless"):
        name = f"MR_small{word}.dcm"
        found.append(Seed(name, "dicom", {name: (wheel / name).read_bytes()}, name))
    siemens = importlib.resources.files("nibabel") / "nicom" / "tests" / "data" / "0.dcm"
    found.append(Seed("siemens", "dicom", {"0.dcm": siemens.read_bytes()}, "0.dcm"))
    return found + list(_shared("dicom", "*.dcm.gz", step=23))


def _shared(target: str, pattern: str, step: int = 1) -> Iterator[Seed]:
    for path in sorted((DATA / "magnitude").rglob(pattern))[::step]:
        if path.stat().st_size <= _LARGEST_SEED:
            row = {"frame": 0} if target == "nifti" else {}
            yield Seed(f"data/{path.name}", target, {path.name: path.read_bytes()}, path.name, row)


def _saved(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _series(datasets: list[Any]) -> dict[str, bytes]:
    return {f"series/im{number}.dcm": _saved(dataset) for number, dataset in enumerate(datasets)}


@cache
def _hdf5() -> list[Seed]:
    image = phantom((3, 12, 10))
    spectrum = np.fft.fftshift(np.fft.fft2(image)).astype(np.complex64)
    header = b"<ismrmrdHeader><encoding><reconSpace><matrixSize><x>12</x><y>10</y><z>1</z></matrixSize><fieldOfView_mm>"
    header += b"<x>120</x><y>80</y><z>3</z></fieldOfView_mm></reconSpace></encoding><TE>27.5</TE></ismrmrdHeader>"

    def fastmri(file: h5py.File) -> None:
        file["reconstruction_esc"], file["kspace"], file["ismrmrd_header"] = image, spectrum, header
        file.attrs.update({"acquisition": "AXT2", "patient_id": "p1", "max": float(image.max())})

    def packed(file: h5py.File) -> None:
        file.create_dataset("a/volume", data=image.astype(np.int16), chunks=(1, 12, 10), compression="gzip",
                            shuffle=True, fletcher32=True)  # fmt: skip

    def plain(file: h5py.File) -> None:
        file.create_dataset("volume", data=image.astype(">f4"))
        file["link"] = h5py.SoftLink("/volume")

    return [
        Seed("fastmri", "hdf5", {"f.h5": _written(fastmri)}, "f.h5"),
        Seed("kspace", "hdf5", {"f.h5": _written(fastmri)}, "f.h5", {"kspace": "f.h5"}),
        Seed("packed", "hdf5", {"p.h5": _written(packed)}, "p.h5", {"dataset": "a/volume"}),
        Seed("plain", "hdf5", {"q.h5": _written(plain)}, "q.h5", {"dataset": "link"}),
    ]


def _written(fill: Callable[[h5py.File], None]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


@cache
def _npy() -> list[Seed]:
    image = phantom((3, 12, 10))
    arrays = {"f4": image, "u2": image.astype(">u2"), "c8": image.astype(np.complex64), "fortran": image.T,
              "plane": image[0].astype(np.float64)}  # fmt: skip
    found = []
    for name, values in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, values)
        found.append(Seed(name, "npy", {f"{name}.npy": buffer.getvalue()}, f"{name}.npy"))
    return found


@cache
def _manifest() -> list[Seed]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_MANIFEST_COLUMNS)
    for k in range(5):
        writer.writerow(
            [f"v{k}", f"files/v{k}.npy", "npy", f"s{k}", "train", "T1", "3", "4.5", "0", "1", "3", "CC0", ""]
        )
    text = buffer.getvalue().encode()
    return [
        Seed("plain", "manifest", {"m.csv": text}, "m.csv"),
        Seed("mark", "manifest", {"m.csv": b"\xef\xbb\xbf" + text}, "m.csv"),
        Seed("two", "manifest", {"m.csv": b'volume_id,path\na,"x,1.nii"\nb,y\n'}, "m.csv"),
    ]


@cache
def _checkpoint() -> list[Seed]:
    torch.manual_seed(0)
    network = ComplexUNet(NetworkConfig(channels=(4, 8), blocks=1, groups=4, embedding=8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        save_checkpoint(network, torch.zeros(2, 5), {"name": "tiny"}, path)
        files = {name.name: name.read_bytes() for name in (path, path.with_suffix(".json"))}
    card = json.loads(files["w.json"])
    files["w.json"] = json.dumps(card, sort_keys=True).encode()
    return [Seed("tiny", "checkpoint", files, "w.safetensors")]


@cache
def _store() -> list[Seed]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "c.zarr"
        store = phantom_corpus.make_corpus(root, a={"seed": 1}, b={"seed": 2, "coils": 2, "num_slices": 2})
        write_index(store, ["a", "b"])
        files = {
            str(Path("c.zarr") / p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
        }
    return [Seed("corpus", "store", files, "c.zarr")]


_MAKERS: dict[str, Callable[[], list[Seed]]] = {
    "dicom": _dicom, "nifti": _nifti, "hdf5": _hdf5, "npy": _npy, "manifest": _manifest, "checkpoint": _checkpoint,
    "store": _store,
}  # fmt: skip
TARGETS = tuple(_MAKERS)
