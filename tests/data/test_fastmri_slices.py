from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from phantom_corpus import make_arrays, make_corpus
from torch.utils.data import DataLoader

from rephase.corpus.index_writer import write_index
from rephase.data.fastmri_slices import FastMRISlices
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.mix import mix
from rephase.data.stream import KSpaceStream
from rephase.errors import RequestError, VolumeError

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemFieldStrength_T>2.9</systemFieldStrength_T></acquisitionSystemInformation>
<encoding><encodedSpace><matrixSize><x>16</x><y>14</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>160</x><y>150</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>9</maximum><center>5</center>
</kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory></encoding>
<sequenceParameters><TE>30</TE></sequenceParameters></ismrmrdHeader>"""


def write_file(path: Path, seed: int = 0, num_slices: int = 2, coils: int = 0, **changes) -> dict:
    arrays = make_arrays(num_slices, 16, 12, coils, seed)
    key = "reconstruction_rss" if coils else "reconstruction_esc"
    arrays[key] = np.ascontiguousarray(arrays[key][:, 4:12, 1:11])
    with h5py.File(path, "w") as file:
        for name, values in (arrays | changes.get("arrays", {})).items():
            if values is not None:
                file[name] = values
        file["ismrmrd_header"] = np.bytes_(changes.get("header", HEADER).encode())
        attributes = {"acquisition": "AXT2", "max": 3.5, "norm": 70.25, "patient_id": f"p{seed}"}
        file.attrs.update(attributes | changes.get("attributes", {}))
    return arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_file(tmp_path / "b.h5", seed=1, num_slices=3)
    write_file(tmp_path / "a.h5", seed=2)
    (tmp_path / "notes.txt").write_text("not a volume")
    return tmp_path


@pytest.mark.parametrize(
    ("attributes", "origin"),
    [
        ({}, ("real", 0, False)),
        ({"phase_generator": "field", "replica": 3}, ("field", 3, True)),
        ({"phase_generator": "real", "replica": 0}, ("real", 0, False)),
        ({"phase_generator": "real", "coil_array": "head64"}, ("real", 0, True)),
    ],
)
def test_a_file_is_measured_unless_it_states_a_generator_or_simulated_coils(tmp_path, attributes, origin):
    write_file(tmp_path / "a.h5", attributes=attributes)
    attrs = FastMRISlices(tmp_path)[0][3]
    assert tuple(attrs[key] for key in ("phase_generator", "replica", "synthetic")) == origin


def test_items_are_what_stands_in_the_files(folder):
    slices = FastMRISlices(folder)
    assert slices.volumes == ["a.h5", "b.h5"]
    assert [slices[number][4:] for number in range(len(slices))] == [
        ("a.h5", 0), ("a.h5", 1), ("b.h5", 0), ("b.h5", 1), ("b.h5", 2)
    ]  # fmt: skip
    kspace, mask, target, attrs, _, _ = slices[3]
    with h5py.File(folder / "b.h5") as file:
        assert kspace.tobytes() == file["kspace"][1].tobytes()
        assert target.tobytes() == file["reconstruction_esc"][1].tobytes()
    assert mask.tolist() == [1] * 12
    # 14 // 2 - 5, and 10 columns more: worked out by hand from the header
    assert (attrs["padding_left"], attrs["padding_right"]) == (2, 12)
    assert (attrs["encoding_size"], attrs["recon_size"]) == ((16, 14, 1), (8, 10, 1))
    assert (attrs["max"], attrs["norm"], attrs["patient_id"], attrs["acquisition"]) == (3.5, 70.25, "p1", "AXT2")
    assert (attrs["contrast"], attrs["field_t"], attrs["te_ms"], attrs["spacing_mm"]) == ("T2", 2.9, 30, (5, 20, 15))
    assert type(attrs["spacing_mm"]) is tuple
    assert slices.volume_matrix(0) == (0, 16, 12, 8, 10)
    copy = pickle.loads(pickle.dumps(slices))  # noqa: S301
    assert copy[-1][0].tobytes() == slices[4][0].tobytes()


def test_tuples_are_those_of_fastmris_own_data_set(tmp_path):
    data = pytest.importorskip("fastmri.data", reason="the fastmri package is not installed")
    for challenge, coils in (("singlecoil", 0), ("multicoil", 3)):
        folder = tmp_path / challenge
        folder.mkdir()
        write_file(folder / "a.h5", coils=coils)
        mask = {"mask": np.arange(12) % 2 > 0, "reconstruction_rss": None, "reconstruction_esc": None}
        write_file(folder / "b.h5", coils=coils, arrays=mask, attributes={"acceleration": 4})
        theirs = data.SliceDataset(folder, challenge, transform=lambda *parts: parts)
        ours = FastMRISlices(folder, challenge, transform=lambda *parts: parts)
        assert len(ours) == len(theirs) == 4
        for number in range(4):
            for one, other in zip(ours[number][:3], theirs[number][:3], strict=True):
                assert (one is None) == (other is None)
                assert one is None or np.array_equal(one, other)
            assert ours[number][4:] == theirs[number][4:]
            assert {key: ours[number][3][key] for key in theirs[number][3]} == theirs[number][3]


def test_what_is_lacking_collates_without_a_transform(tmp_path):
    write_file(tmp_path / "a.h5", coils=2)
    write_file(tmp_path / "b.h5", coils=2, arrays={"mask": np.arange(12) % 2, "reconstruction_rss": None})
    slices = FastMRISlices(tmp_path)
    batch = next(iter(DataLoader(slices, batch_size=4)))
    assert batch[0].shape == (4, 2, 16, 12)
    assert batch[1].tolist() == [[1] * 12] * 2 + [[0, 1] * 6] * 2
    assert not batch[2][:2].isnan().any()
    assert batch[2][2:].isnan().all()
    slices.transform = lambda *parts: parts[1:3]
    assert slices[0][0] is None
    assert slices[2][1] is None


def test_real_files_mix_with_a_corpus_in_one_batch(folder, tmp_path):
    root = tmp_path / "c"
    write_index(make_corpus(root, v={"num_slices": 6}), ["v"])
    write_file(folder / "a.h5", arrays={"reconstruction_esc": np.ones((2, 16, 12), np.float32)})
    (folder / "b.h5").unlink()
    mixed = mix(FastMRISlices(folder), KSpaceSlices(root), 0.25)
    kspace, _, _, attrs, names, _ = next(iter(DataLoader(mixed, batch_size=8)))
    assert kspace.shape == (8, 16, 12)
    assert sorted(names) == ["a.h5"] * 2 + ["v"] * 6
    assert len(attrs["max"]) == 8
    assert sorted(item[4] for item in KSpaceStream(FastMRISlices(folder))) == ["a.h5"] * 2


def test_what_is_no_file_of_fastmri_is_named(tmp_path):
    with pytest.raises(RequestError, match="no such folder"):
        FastMRISlices(tmp_path / "nothing")
    with pytest.raises(RequestError, match=r"no \.h5 file"):
        FastMRISlices(tmp_path)
    with pytest.raises(RequestError, match="expected singlecoil or multicoil"):
        FastMRISlices(tmp_path, "both")
    for header in ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<a/>", "no xml", HEADER.replace("center", "centre")):
        write_file(tmp_path / "a.h5", header=header)
        with pytest.raises(VolumeError, match=r"a.h5: .*ismrmrd_header") as caught:
            FastMRISlices(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    with pytest.raises(VolumeError, match=r"a.h5: .*take it out of the folder"):
        FastMRISlices(tmp_path)


def test_a_file_that_is_gone_is_named_with_its_slice(folder):
    slices = FastMRISlices(folder)
    (folder / "b.h5").unlink()
    with pytest.raises(VolumeError, match=r"b\.h5: slice 2: "):
        slices[4]


def test_maps_and_labels_of_files_come_out(tmp_path):
    for name in ("a", "b"):
        write_file(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["sens_maps"] = np.ones((*file["kspace"].shape,), np.complex64)
        file["segmentation"] = np.full((*file["kspace"].shape[:1], 4, 4), 7, np.uint8)
    with pytest.raises(RequestError, match=r"1 of 2 files have no sens_maps, such as b\.h5; expected one each"):
        FastMRISlices(tmp_path, maps=True)
    (tmp_path / "b.h5").unlink()
    attrs = FastMRISlices(tmp_path, maps=True, segmentation=True)[0][3]
    assert attrs["sens_maps"].dtype == np.complex64
    assert (attrs["segmentation"] == 7).all()
    assert "sens_maps" not in FastMRISlices(tmp_path)[0][3]
