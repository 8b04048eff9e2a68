"""Hostile files, one by one: bombs, pipes, links out of the file, headers that contradict their pixels."""

from __future__ import annotations

import gzip
import importlib.resources
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import phantom_dicom
import pydicom
import pytest
from fuzz.pool import PEAK_BYTES, _reset_peak, _status
from fuzz.seeds import phantom
from phantom_dicom import classic, save
from pydicom.uid import DeflatedExplicitVRLittleEndian

import rephase.readers.dicom.files
from rephase.diffusion.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet, NetworkConfig
from rephase.errors import VolumeError
from rephase.manifests.parse import ManifestError, read_manifest
from rephase.manifests.record import ManifestRow
from rephase.readers.registry import describe_row, probe, read_volume

LIMIT = 32 << 20


@pytest.fixture(autouse=True)
def neither_hang_nor_hunger():
    """A pipe that is opened waits for ever: an alarm ends it. Memory is that of this process."""
    before = _reset_peak()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(300)
    yield
    signal.alarm(0)
    assert _status("VmHWM") - before < PEAK_BYTES + (128 << 20)  # what the tests themselves write counts too


def row(path, **columns):
    return ManifestRow(line=2, volume_id="v", path=str(path), **columns)


def refused(path, reason, *fragments, **columns):
    with pytest.raises(VolumeError) as caught:
        read_volume(row(path, **columns), LIMIT)
    text = str(caught.value)
    assert caught.value.reason == reason, text
    assert text.isprintable()
    assert all(fragment in text for fragment in fragments), text


# What is no file


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.h5", "x.npy", "x.dcm", "x"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "long"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path = tmp_path / ("y" * 300 + name)
    reason = "unreadable" if kind in ("pipe", "device") else "missing"
    refused(path, reason)
    refused(path, reason, format="dicom")
    with pytest.raises(VolumeError):
        describe_row(row(path))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.h5", "x.npy"])
def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    refused(tmp_path / name, "unreadable", format={"x.h5": "hdf5", "x.npy": "npy"}.get(name, "nifti"))


def test_pipes_in_a_folder_are_not_opened(tmp_path):
    nib.save(nib.Nifti1Image(phantom((6, 6, 4)), np.eye(4)), tmp_path / "x.nii")
    os.mkfifo(tmp_path / "x.json")
    assert read_volume(row(tmp_path / "x.nii")).magnitude.shape == (4, 6, 6)
    for number in range(3):
        save(classic(number), tmp_path / "series" / f"{number}.dcm")
    os.mkfifo(tmp_path / "series" / "3.dcm")
    assert read_volume(row(tmp_path / "series")).magnitude.shape[0] == 3
    assert len(probe(sorted((tmp_path / "series").glob("[0-2].dcm"))).headers) == 1


def test_a_manifest_must_be_a_file(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    for path in (tmp_path / "m.csv", tmp_path, "/dev/zero"):
        with pytest.raises(ManifestError, match="is a folder, a pipe or a device"):
            read_manifest(path)


def test_manifests_of_one_endless_line_are_refused(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(b"volume_id,path\n" + b"x" * (1 << 22))
    with pytest.raises(ManifestError, match="2: is longer than"):
        read_manifest(path)
    path.write_bytes(b"volume_id,path" + b",a" * 200_000 + b"\nv,p\n")
    with pytest.raises(ManifestError, match="expected at most 1000"):
        read_manifest(path)


# Bombs


def test_a_gzip_bomb_is_refused_by_its_header_or_by_its_end(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 512))
    header.set_data_dtype(np.float32)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "promise.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20), 9))
    refused(tmp_path / "promise.nii.gz", "unreadable")
    with gzip.open(tmp_path / "kept.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(128):
            file.write(bytes(4 << 20))
    refused(tmp_path / "kept.nii.gz", "too_large", "MB")
    header.set_data_shape((8, 8, 4))
    with gzip.open(tmp_path / "behind.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4) + phantom((8, 8, 4)).tobytes())
        for _ in range(64):
            file.write(bytes(4 << 20))
    refused(tmp_path / "behind.nii.gz", "unreadable")


def test_a_dicom_bomb_is_refused(tmp_path, monkeypatch):
    dataset = classic(0)
    dataset.private_block(0x99, "TEST", create=True).add_new(1, "OB", bytes(8 << 20))
    save(dataset, tmp_path / "x.dcm.gz")
    assert (tmp_path / "x.dcm.gz").stat().st_size < 100_000
    monkeypatch.setattr(rephase.readers.dicom.files, "HEADER_LIMIT", 1 << 20)
    refused(tmp_path / "x.dcm.gz", "too_large")


def test_a_length_of_gigabytes_takes_no_memory(tmp_path):
    data = (save(classic(0), tmp_path / "x.dcm")).read_bytes()
    at = data.index(b"OW", 300)
    (tmp_path / "x.dcm").write_bytes(data[: at + 4] + struct.pack("<I", 0xFFFFFFF0) + data[at + 8 : -6])
    refused(tmp_path / "x.dcm", "unreadable")
    at = data.index(b"\x08\x00\x60\x00CS")
    (tmp_path / "x.dcm").write_bytes(data[:at] + b"\x08\x00\x60\x00OB\0\0\xf0\xff\xff\xff" + data[at + 8 :])
    refused(tmp_path / "x.dcm", "unreadable")


def test_deflated_dicom_is_refused_wherever_its_header_states_it(tmp_path):
    dataset = classic(0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = "1.2.3"
    save(dataset, tmp_path / "x.dcm")
    refused(tmp_path / "x.dcm", "unsupported", "deflated")
    data = (tmp_path / "x.dcm").read_bytes()
    long = b"\x02\x00\x02\x01OB\0\0" + struct.pack("<I", 4096) + bytes(4096)
    size = struct.unpack_from("<I", data, 140)[0]
    moved = data[:140] + struct.pack("<I", size + len(long)) + long + data[144:]
    (tmp_path / "x.dcm").write_bytes(moved)
    refused(tmp_path / "x.dcm", "unsupported", "deflated")


def test_hdf5_chunks_that_unpack_to_more_than_the_limit_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("v", data=np.zeros((3, 2000, 2000), "f4"), chunks=(1, 1000, 1000), compression="gzip")
        file.create_dataset("huge", (2**31, 2**31), "f4", chunks=(64, 64))
        file.create_dataset("ismrmrd_header", (), "S30000000")
    refused(tmp_path / "x.h5", "too_large", dataset="v")
    refused(tmp_path / "x.h5", "unreadable", "too big", dataset="huge")


def test_a_header_of_tags_without_end_costs_no_time(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["reconstruction_rss"] = phantom((2, 6, 6))
        file["ismrmrd_header"] = b"<TE>" * 1_000_000
    start = time.process_time()
    assert read_volume(row(tmp_path / "x.h5")).te_ms is None
    assert time.process_time() - start < 20


def test_a_network_far_larger_than_its_weights_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    import torch

    save_checkpoint(ComplexUNet(NetworkConfig((4, 8), 1, 2, 4, 8)), torch.zeros(1, 5), {}, path)
    card = json.loads(path.with_suffix(".json").read_text())
    for change in (
        {"channels": [4096] * 8},
        {"channels": [10**9]},
        {"blocks": 10**9},
        {"embedding": 1.5},
        {"patch": True},
    ):
        path.with_suffix(".json").write_text(json.dumps(card | {"network": card["network"] | change}))
        with pytest.raises(CheckpointError, match="architecture"):
            load_checkpoint(path)
    path.with_suffix(".json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(path)


# Out of the file


def test_hdf5_links_do_not_leave_the_file(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["v"] = phantom((3, 6, 6))
    (tmp_path / "raw").write_bytes(phantom((3, 6, 6)).tobytes())
    os.mkfifo(tmp_path / "pipe.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["out"] = h5py.ExternalLink("secret.h5", "/v")
        file["pipe"] = h5py.ExternalLink("pipe.h5", "/v")
        file["group"] = h5py.ExternalLink("secret.h5", "/")
        file["soft"] = h5py.SoftLink("/group/v")
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file.create_dataset("external", (3, 6, 6), "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout((3, 6, 6), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "v", (3, 6, 6))
        file.create_virtual_dataset("virtual", layout)
    for key in ("out", "pipe", "soft", "group/v", "external", "virtual"):
        refused(tmp_path / "x.h5", "unsupported", "other file" if key in ("external", "virtual") else "another file",
                dataset=key)  # fmt: skip
    refused(tmp_path / "x.h5", "unreadable", dataset="a")
    refused(tmp_path / "x.h5", "mismatch", dataset="nothing")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        for key in ("reconstruction_rss", "kspace", "mask", "ismrmrd_header"):
            file[key] = h5py.ExternalLink("pipe.h5", "/v")
    refused(tmp_path / "y.h5", "unsupported", "another file")
    assert probe([tmp_path / "y.h5"]).headers == []


@pytest.mark.parametrize("key", ["reconstruction_esc", "mask", "ismrmrd_header"])
def test_a_dangling_link_is_not_an_absent_object(tmp_path, key):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["kspace"] = phantom((3, 6, 6)).astype(np.complex64)
    assert read_volume(row(tmp_path / "x.h5")).magnitude.shape == (3, 6, 6)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file[key] = h5py.SoftLink("/nowhere")
    refused(tmp_path / "x.h5", "unreadable")


_READ = """
import sys
from pathlib import Path
from rephase.errors import VolumeError
from rephase.readers.registry import probe, read_volume
from rephase.manifests.record import ManifestRow
for path in sorted(Path(sys.argv[1]).iterdir()):
    probe([path])
    try:
        read_volume(ManifestRow(line=2, volume_id="v", path=str(path)))
        print(path.name, "read")
    except VolumeError as error:
        print(path.name, error.reason)
"""


def test_a_damaged_heap_of_strings_ends(tmp_path):
    # without the guard the library goes round in it for ever, so another process reads it
    expected = {}
    for size in (100, 30_000, 1_500_000):
        sound = tmp_path / f"{size}.h5"
        with h5py.File(sound, "w") as file:
            file["reconstruction_esc"] = phantom((3, 6, 6))
            file["ismrmrd_header"] = "x" * size
            file.attrs["acquisition"] = "AXT2"
        data = sound.read_bytes()
        heap = data.index(b"GCOL")
        for name, header in (("zero", bytes(16)), ("wraps", b"\1" + bytes(7) + (2**64 - 16).to_bytes(8, "little"))):
            (tmp_path / f"{size}{name}.h5").write_bytes(data[: heap + 16] + header + data[heap + 32 :])
            expected[f"{size}{name}.h5"] = "unreadable"
        expected[sound.name] = "read"
    end = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path)], capture_output=True, text=True, timeout=200, check=True
    )
    assert dict(line.split() for line in end.stdout.splitlines()) == expected


def test_what_numpy_would_unpickle_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "x.npy", np.array([Trap(), Trap()], object), allow_pickle=True)
    refused(tmp_path / "x.npy", "unreadable")
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Trap()))  # written, to see that it is never read
    refused(tmp_path / "y.npy", "unreadable")
    np.savez(tmp_path / "z.npz", a=np.zeros(3))
    refused(tmp_path / "z.npz", "unsupported", format="npy")
    assert not (tmp_path / "sprung").exists()


# Headers that contradict themselves


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"RescaleSlope": "nan"}, "unreadable"),
        ({"RescaleSlope": "inf"}, "unreadable"),
        ({"RescaleIntercept": "nan"}, "unreadable"),
        ({"RescaleSlope": ["1", "2"]}, "unreadable"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "unreadable"),
        ({"ImagePositionPatient": [0, 0, 1e30]}, "unreadable"),
        ({"PixelSpacing": [1e-30, 1e-30]}, "unreadable"),
        ({"Rows": 3}, "unreadable"),
        ({"Columns": 4}, "unreadable"),
        ({"Rows": 60000}, "unreadable"),
        ({"Rows": 0}, "unreadable"),
        ({"BitsStored": 12, "HighBit": 15}, "unsupported"),
        ({"BitsStored": 20}, "unsupported"),
        ({"BitsAllocated": 8}, "unsupported"),
    ],
)
def test_dicom_that_contradicts_itself_is_refused(tmp_path, elements, reason):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(save(classic(0, **elements), tmp_path / "x.dcm"), reason)


def test_a_mosaic_of_a_million_slices_is_refused(tmp_path):
    for rows, columns, count in ((64, 64, 2**31 - 1), (1024, 1024, 1024**2)):
        dataset = phantom_dicom.mosaic(4)
        dataset[0x29, 0x1010].value = phantom_dicom._csa({"NumberOfImagesInMosaic": ("US", [str(count)])})
        dataset.Rows, dataset.Columns, dataset.PixelData = rows, columns, bytes(2 * rows * columns)
        refused(save(dataset, tmp_path / "x.dcm"), "unreadable" if rows > 64 else "unsupported", "x.dcm")


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_a_codestream_of_another_size_is_not_given_to_its_decoder(tmp_path, name):
    data = (importlib.resources.files("pydicom") / "data" / "test_files" / name).read_bytes()
    at = data.find(b"\xff\x4f\xff\x51") + 8 if "jp2k" in name else data.find(b"\xff\xf7") + 5
    for size in (60000, 63, 0):
        value = struct.pack(">I" if "jp2k" in name else ">H", size)
        (tmp_path / "x.dcm").write_bytes(data[:at] + value + data[at + len(value) :])
        refused(tmp_path / "x.dcm", "unreadable")
    (tmp_path / "x.dcm").write_bytes(data)
    assert read_volume(row(tmp_path / "x.dcm"), LIMIT).magnitude.shape == (1, 64, 64)


@pytest.mark.parametrize("depth", [100, 20_000])
def test_sequences_inside_sequences_end(tmp_path, depth):
    data = save(classic(0), tmp_path / "x.dcm").read_bytes()
    at = data.index(b"\x08\x00\x60\x00CS")
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    (tmp_path / "x.dcm").write_bytes(data[:at] + nested + data[at:])
    refused(tmp_path / "x.dcm", "unreadable")


# Slices that would be missing unnoticed


def _series(folder, names=("IM0001", "IM0002", "IM0003", "IM0004")):
    for number, name in enumerate(names):
        save(classic(number), folder / name)
    return folder


def test_slices_that_are_links_are_slices(tmp_path):
    _series(tmp_path / "store")
    for name in ("series", "later"):
        (tmp_path / name).mkdir()
        for path in (tmp_path / "store").iterdir():
            (tmp_path / name / path.name).symlink_to(path)
    expected = read_volume(row(tmp_path / "store")).magnitude
    np.testing.assert_array_equal(read_volume(row(tmp_path / "series")).magnitude, expected)
    (tmp_path / "store" / "IM0004").unlink()
    refused(tmp_path / "later", "incomplete", "IM0004")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "class", "modality"])
def test_a_damaged_last_slice_is_reported(tmp_path, damage):
    path = _series(tmp_path) / "IM0004"
    data = path.read_bytes()
    if damage == "class":
        path.write_bytes(data.replace(b"1.2.840.10008.5.1.4.1.1.4", b"1.2.840.10007.5.1.4.1.1.4")[:700])
    elif damage == "modality":
        path.write_bytes(data.replace(b"CS\x02\x00MR", b"CS\x02\x00MS"))
    else:
        path.write_bytes({"empty": b"", "text": b"oops " * 99, "cut": data[:300]}[damage])
    refused(tmp_path, "unreadable", "IM0004")


def test_other_objects_in_the_folder_are_left_alone(tmp_path):
    expected = read_volume(row(_series(tmp_path))).magnitude
    report = pydicom.Dataset()
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SOPInstanceUID, report.Modality, report.PatientID = "1.2.3", "SR", "x"
    save(report, tmp_path / "IM9999.dcm")
    private = classic(0, Rows=None, Columns=None, PixelData=None)
    private.SOPClassUID = private.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"
    save(private, tmp_path / "raw.dcm")
    (tmp_path / "README").write_text("about this series")
    np.testing.assert_array_equal(read_volume(row(tmp_path)).magnitude, expected)


# NIfTI


def _nifti(tmp_path, shape=(6, 5, 4), kind=nib.Nifti1Image, **fields):
    image = kind(phantom(shape).astype(np.int16), np.diag([2.0, 2.0, 4.0, 1.0]))
    buffer = io.BytesIO(image.to_bytes())
    header = type(image.header)(buffer.getvalue()[: image.header.template_dtype.itemsize], check=False)
    for name, value in fields.items():
        header.structarr[name] = value
    (tmp_path / "x.nii").write_bytes(bytes(header.binaryblock) + buffer.getvalue()[len(header.binaryblock) :])
    return tmp_path / "x.nii"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": (3, 6, 5, 2, 1, 1, 1, 1)}, "unreadable"),
        ({"dim": (3, 6, 5, 9, 1, 1, 1, 1)}, "unreadable"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "unreadable"),
        ({"dim": (3, -6, 5, 4, 1, 1, 1, 1)}, "unsupported"),
        ({"dim": (0, 6, 5, 4, 1, 1, 1, 1)}, "unsupported"),
        ({"datatype": 2, "bitpix": 8}, "unreadable"),
        ({"scl_slope": 1e38}, "not_finite"),
        ({"scl_slope": 1.0, "scl_inter": np.nan}, "unreadable"),
        ({"vox_offset": np.nan}, "unreadable"),
        ({"vox_offset": 10.0}, "unreadable"),
        ({"srow_x": (np.nan, 0, 0, 0), "sform_code": 2, "qform_code": 2}, "unreadable"),
        ({"quatern_b": np.nan, "sform_code": 0, "qform_code": 2}, "unreadable"),
        ({"qoffset_x": np.inf, "sform_code": 0, "qform_code": 2}, "unreadable"),
        ({"srow_x": (1e10, 0, 0, 0), "srow_y": (0, 1e10, 0, 0), "srow_z": (0, 0, 1e10, 0)}, "unreadable"),
    ],
)
def test_nifti_that_contradicts_itself_is_refused(tmp_path, fields, reason):
    from rephase.pipeline.magnitude import prepare_magnitude

    with pytest.raises(VolumeError) as caught:
        prepare_magnitude(read_volume(row(_nifti(tmp_path, **fields)), LIMIT).magnitude)
    assert caught.value.reason == reason, str(caught.value)


def test_all_frames_must_exist_whichever_is_read(tmp_path):
    image = nib.Nifti1Image(phantom((6, 5, 4, 3)).astype(np.int16), np.eye(4))
    data = image.to_bytes()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(data[:400] + data[402:]))
    refused(tmp_path / "x.nii.gz", "unreadable", frame=0)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(data))
    assert read_volume(row(tmp_path / "x.nii.gz", frame=2)).magnitude.shape == (4, 5, 6)


def test_converted_line_ends_are_reported(tmp_path):
    refused(_nifti(tmp_path, kind=nib.Nifti2Image, eol_check=(10, 10, 26, 10)), "unreadable")
