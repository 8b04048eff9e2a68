"""The formats themselves, against the rules of those who read them, written down here from their sources."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args, get_type_hints
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from export_volumes import ifft2c

from rephase.corpus.store import CorpusStore
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import VolumeError
from rephase.exports.bart import bart_dimensions
from rephase.exports.export import ExportOptions, export_corpus
from rephase.ismrmrd_header import ismrmrd_header

SCHEMA = Path("/usr/share/ismrmrd/schema/ismrmrd.xsd")


@pytest.fixture(scope="module")
def exported(consumer_corpus, tmp_path_factory):
    """A folder for each format."""
    folder = tmp_path_factory.mktemp("exports")
    for kind in ("fastmri", "bart", "ismrmrd"):
        assert export_corpus(consumer_corpus, folder / kind, ExportOptions(file_format=kind)).written == 5
    return folder


def stored(corpus, name):
    import zarr

    return {key: array[...] for key, array in zarr.open_group(corpus, mode="r")[f"volumes/{name}"].arrays()}


def parse(header):
    return ElementTree.fromstring(header)  # noqa: S314 - written by the test itself


def query(root, *path):
    """As fastMRI and DIRECT look for an element: anywhere below, in the namespace of ISMRMRD."""
    found = root.find("." + "".join(f"//i:{name}" for name in path), {"i": "http://www.ismrm.org/ISMRMRD"})
    assert found is not None, path
    return int(found.text)


def test_slice_datasets_header_gives_sizes_and_padding(consumer_corpus, exported):
    """`fastmri.data.mri_data.SliceDataset._retrieve_metadata` and DIRECT's `_parse_fastmri_header`."""
    dataset = KSpaceSlices(consumer_corpus)
    for kspace, _, _, attributes, name, _ in dataset:
        with h5py.File(exported / "fastmri" / f"{name}.h5") as file:
            root = parse(file["ismrmrd_header"][()])
        encoded = [query(root, "encoding", "encodedSpace", "matrixSize", axis) for axis in "xyz"]
        recon = [query(root, "encoding", "reconSpace", "matrixSize", axis) for axis in "xyz"]
        limits = ("encoding", "encodingLimits", "kspace_encoding_step_1")
        left = encoded[1] // 2 - query(root, *limits, "center")
        right = left + query(root, *limits, "maximum") + 1
        assert tuple(encoded) == tuple(attributes["encoding_size"]) == (*kspace.shape[-2:], 1)
        assert tuple(recon) == tuple(attributes["recon_size"])
        assert (left, right) == (attributes["padding_left"], attributes["padding_right"])


def walk(element, cls):
    """Hold an element's children against the class that xsdata made of the schema: names, order, number, text."""
    fields = {f.metadata.get("name", f.name): f for f in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    names = [child.tag.partition("}")[2] for child in element]
    assert set(names) <= set(fields), names
    assert names == sorted(names, key=list(fields).index), names
    for name, field in fields.items():
        if field.metadata.get("required") and field.metadata.get("type") == "Element":
            assert names.count(name) == 1, (name, names)
    for child, name in zip(element, names, strict=True):
        kinds = [
            kind
            for kind in (get_args(hints[fields[name].name]) or (hints[fields[name].name],))
            if kind is not type(None)
        ]
        if dataclasses.is_dataclass(kinds[0]):
            walk(child, kinds[0])
        else:
            assert child.text


def test_the_header_is_one_that_the_schema_allows(exported):
    """Parsed by the `ismrmrd` package, which refuses unknown elements, and held against its classes."""
    import ismrmrd.xsd

    for path in (exported / "fastmri").iterdir():
        with h5py.File(path) as file:
            text = file["ismrmrd_header"][()]
        header = ismrmrd.xsd.CreateFromDocument(text)
        walk(parse(text), ismrmrd.xsd.ismrmrdHeader)
        assert header.encoding[0].trajectory == ismrmrd.xsd.trajectoryType.CARTESIAN
        assert header.encoding[0].encodedSpace.fieldOfView_mm.x > 0
        if path.stem == "coils":
            assert header.acquisitionSystemInformation.receiverChannels == 8
            assert header.sequenceParameters.TE == [11.0]
            assert header.experimentalConditions.H1resonanceFrequency_Hz == 127732436
        if path.stem == "knee":
            assert header.experimentalConditions.H1resonanceFrequency_Hz == 0
            assert header.acquisitionSystemInformation.systemFieldStrength_T is None


def test_the_header_is_valid_for_the_schema_itself(exported, tmp_path):
    if shutil.which("xmllint") is None or not SCHEMA.exists():
        pytest.skip("needs the Debian packages libxml2-utils and ismrmrd-schema")
    for path in (exported / "fastmri").iterdir():
        with h5py.File(path) as file:
            (tmp_path / "header.xml").write_bytes(file["ismrmrd_header"][()])
        command = ["xmllint", "--noout", "--nonet", "--schema", str(SCHEMA), str(tmp_path / "header.xml")]
        checked = subprocess.run(command, check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_sizes_that_ismrmrd_cannot_count_are_refused(consumer_corpus):
    receipt = CorpusStore.open(consumer_corpus).receipt("single")
    with pytest.raises(VolumeError, match="70000"):
        ismrmrd_header("v", receipt | {"encoding_size": [70000, 8, 1]}, 1)


def test_directs_rules(consumer_corpus, exported):
    """`direct.data.datasets.FastMRIDataset`: `*.h5`, attribute `max`, columns outside of the padding set to zero."""
    files = sorted((exported / "fastmri").glob("*.h5"))
    assert len(files) == 5
    for path in files:
        with h5py.File(path) as file:
            assert float(file.attrs["max"]) > 0
            kspace = file["kspace"][...]
            root = parse(file["ismrmrd_header"][()])
            limits = ("encoding", "encodingLimits", "kspace_encoding_step_1")
            left = query(root, "encoding", "encodedSpace", "matrixSize", "y") // 2 - query(root, *limits, "center")
            right = left + query(root, *limits, "maximum") + 1
            padded = kspace.copy()
            padded[..., :left] = padded[..., right:] = 0
            np.testing.assert_array_equal(padded, kspace)
            assert "mask" not in file or file["mask"].shape == kspace.shape[-1:]


def test_deepinvs_rules(exported):
    """`deepinv.datasets.FastMRISliceDataset`: the target is esc where it is, else rss; both follow from k-space."""
    for path in sorted((exported / "fastmri").glob("*.h5")):
        with h5py.File(path) as file:
            kspace = file["kspace"][...]
            target = file["reconstruction_esc" if "reconstruction_esc" in file else "reconstruction_rss"][...]
            assert kspace.dtype == np.complex64
            if "mask" in file:
                continue
        image = np.abs(ifft2c(kspace))
        image = np.sqrt((image**2).sum(axis=1)) if image.ndim == 4 else image
        top = (image.shape[-2] - target.shape[-2]) // 2
        np.testing.assert_allclose(image[:, top : top + target.shape[-2]], target, atol=1e-5 * target.max())


def test_mrpros_rules(exported):
    """`mrpro.phantoms.fastmri`: names of acquisitions, text in UTF-8, no empty columns at either end of k-space."""
    for path in (exported / "fastmri").rglob("*.h5"):
        with h5py.File(path) as file:
            name = file.attrs["acquisition"]
            assert isinstance(name, str)
            assert name.startswith("AX") or name.endswith("FBK")
            file["ismrmrd_header"][()].decode("utf-8")
            kspace = file["kspace"][0]
            acquired = np.flatnonzero(np.abs(kspace.reshape(-1, *kspace.shape[-2:])[0, 0]) > 1e-12)
            assert path.stem == "masked" or (acquired[0], acquired[-1]) == (0, kspace.shape[-1] - 1)


def test_no_negative_zero_where_nothing_was_sampled(exported):
    for path, key in ((exported / "fastmri/masked.h5", "kspace"),):
        with h5py.File(path) as file:
            parts = file[key][...].view(np.float32)
            assert (file.attrs["acceleration"], file.attrs["num_low_frequency"]) == (2, 5)
        assert not np.any(np.signbit(parts) & (parts == 0))


def read_cfl(path):
    """BART's own rule, from its `cfl` description: 16 sizes after the first line, column-major complex float."""
    dimensions = [int(word) for word in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    assert len(dimensions) == 16
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(dimensions, order="F")


def test_cfl_files_hold_the_arrays_in_barts_dimensions(consumer_corpus, exported):
    for name in ("single", "knee", "coils", "masked"):
        for key, values in stored(consumer_corpus, name).items():
            found = read_cfl(exported / "bart" / name / key)
            if values.ndim == 1:
                np.testing.assert_array_equal(found.reshape(-1), values)
                assert found.shape[1] == len(values)
                continue
            coils = values if values.ndim == 4 else values[:, None]
            expected = coils.transpose(2, 3, 1, 0)  # READ, PHS1, COIL, SLICE
            np.testing.assert_array_equal(found[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, :, 0, 0], expected)
    facts = json.loads((exported / "bart/coils/volume.json").read_text())
    assert (facts["name"], facts["te_ms"], facts["num_slices"]) == ("coils", 11.0, 2)
    assert bart_dimensions((5, 8, 64, 48)) == [64, 48, 1, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 1, 1]


def bart(folder, *words):
    if shutil.which("bart") is None:
        pytest.skip("BART is not installed: the Debian package bart has it")
    done = subprocess.run(["bart", *map(str, words)], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["single", "knee", "coils", "oversampled"])
def test_barts_fft_gives_the_image_and_its_rss_the_target(consumer_corpus, exported, tmp_path, name):
    bart(tmp_path, "fft", "-u", "-i", 3, exported / "bart" / name / "kspace", "image")
    found = read_cfl(tmp_path / "image")[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, :, 0, 0]
    values = stored(consumer_corpus, name)
    kspace = values["kspace"] if values["kspace"].ndim == 4 else values["kspace"][:, None]
    expected = ifft2c(kspace).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    bart(tmp_path, "fft", "-u", 3, "image", "again")
    again = read_cfl(tmp_path / "again")[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, :, 0, 0]
    np.testing.assert_allclose(again, kspace.transpose(2, 3, 1, 0), atol=2e-6 * np.abs(kspace).max())
    if name == "coils":
        bart(tmp_path, "rss", 8, "image", "rss")
        rss = read_cfl(tmp_path / "rss").squeeze().transpose(2, 0, 1)
        np.testing.assert_allclose(rss, values["reconstruction_rss"], atol=1e-5 * rss.real.max())


def test_bart_ecalib_and_pics_give_our_image(consumer_corpus, exported, tmp_path):
    values = stored(consumer_corpus, "coils")
    target = values["reconstruction_rss"][0]
    volume = exported / "bart/coils"
    bart(tmp_path, "slice", 13, 0, volume / "kspace", "kspace")
    bart(tmp_path, "slice", 13, 0, volume / "sens_maps", "ours")
    bart(tmp_path, "ecalib", "-m", 1, "-c", 0.0, "kspace", "theirs")
    inside = target > 0.5
    for maps, tolerance in (("ours", 2e-3), ("theirs", 0.03)):
        bart(tmp_path, "pics", "-S", "-l2", "-r", 1e-5, "-i", 60, "kspace", maps, f"image-{maps}")
        image = np.abs(read_cfl(tmp_path / f"image-{maps}").squeeze())
        error = np.linalg.norm((image - target)[inside]) / np.linalg.norm(target[inside])
        assert error < tolerance, (maps, error)


def test_ismrmrd_round_trip(consumer_corpus, exported):
    """Acquisition by acquisition through the real package: k-space, counters, geometry, images."""
    import ismrmrd
    import ismrmrd.xsd

    for name in ("single", "knee", "coils", "oversampled", "masked"):
        values, receipt = stored(consumer_corpus, name), CorpusStore.open(consumer_corpus).receipt(name)
        kspace = values["kspace"] if values["kspace"].ndim == 4 else values["kspace"][:, None]
        with ismrmrd.Dataset(exported / "ismrmrd" / f"{name}.h5", "dataset", mode="r") as dataset:
            header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
            space, limits = header.encoding[0].encodedSpace.matrixSize, header.encoding[0].encodingLimits
            channels = header.acquisitionSystemInformation.receiverChannels
            found = np.zeros((limits.slice.maximum + 1, channels, space.x, space.y), np.complex64)
            lines = 0 if "mask" not in values else int(values["mask"].sum())
            assert dataset.number_of_acquisitions() == len(kspace) * (lines or space.y)
            for number in range(dataset.number_of_acquisitions()):
                acquisition = dataset.read_acquisition(number)
                step = acquisition.idx.kspace_encode_step_1
                assert step <= limits.kspace_encoding_step_1.maximum
                line = step - limits.kspace_encoding_step_1.center + space.y // 2
                found[acquisition.idx.slice, :, :, line] = acquisition.data
                assert acquisition.center_sample == space.x // 2
                assert acquisition.scan_counter == number
            np.testing.assert_array_equal(found, kspace)
            assert acquisition.isFlagSet(ismrmrd.ACQ_LAST_IN_SLICE)
            assert acquisition.isFlagSet(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
            assert all(acquisition.isChannelActive(coil) for coil in range(channels))
            assert not acquisition.isChannelActive(channels)
            first = dataset.read_acquisition(0)
            assert first.isFlagSet(ismrmrd.ACQ_FIRST_IN_SLICE)
            assert not first.isFlagSet(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
            affine = np.array(receipt["affine"])
            np.testing.assert_allclose(np.array(first.read_dir), affine[:3, 1] / np.linalg.norm(affine[:3, 1]))
            height, width, _ = receipt["recon_size"]
            middle = affine @ [0, height // 2, width // 2, 1]
            np.testing.assert_allclose(np.array(first.position), middle[:3])
            for key in set(values) - {"kspace", "mask"}:
                image = dataset.read_array(key, 1)
                expected = values[key][1]
                np.testing.assert_array_equal(image.view(expected.dtype).reshape(expected.shape), expected)


def test_a_file_written_by_the_package_has_the_same_records(consumer_corpus, exported, tmp_path):
    """What `append_acquisition` writes of what we wrote is byte for byte the same record."""
    import ismrmrd

    with ismrmrd.Dataset(exported / "ismrmrd/coils.h5", mode="r") as ours:
        records: list[Any] = [ours.read_acquisition(number) for number in range(5)]
    with ismrmrd.Dataset(tmp_path / "theirs.h5") as theirs:
        for record in records:
            theirs.append_acquisition(record)
    with h5py.File(exported / "ismrmrd/coils.h5") as left, h5py.File(tmp_path / "theirs.h5") as right:
        assert left["dataset/data"].dtype == right["dataset/data"].dtype
        for number in range(5):
            one, other = left["dataset/data"][number], right["dataset/data"][number]
            assert one["head"].tobytes() == other["head"].tobytes()
            np.testing.assert_array_equal(one["data"], other["data"])


def test_without_the_package_one_line_says_what_to_install(consumer_corpus, tmp_path, monkeypatch):
    import sys

    from rephase.errors import RequestError

    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    with pytest.raises(RequestError, match=r"extra ismrmrd of rephase .*'\.\[ismrmrd\]'"):
        export_corpus(consumer_corpus, tmp_path / "out", ExportOptions(file_format="ismrmrd"))
    assert not (tmp_path / "out").exists()
