"""Nothing that names a person goes from a source into a corpus, its log, its report or an export of it."""

from __future__ import annotations

import json

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
from fuzz.seeds import phantom
from paths import PROJECT
from phantom_dicom import classic, save
from pydicom.datadict import DicomDictionary
from pydicom.sequence import Sequence as Items
from volumes import write_manifest

from rephase.cli import main
from rephase.manifests.columns import volume_id_problem

WORD, UID, DATE, TIME = "ZQXV", "1.2.999.7", "19010203", "010203.456789"
SENTINELS = [word.encode() for word in (WORD, UID, DATE, TIME)]
VALUES = {
    **dict.fromkeys(("PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"), WORD), "UR": f"http://{WORD}.example", "UI": UID,
    "DA": DATE, "TM": TIME, "DT": DATE + TIME, "AS": "099Y",
}  # fmt: skip
STEERS = {"SOPClassUID", "SpecificCharacterSet", "TransferSyntaxUID", "MediaStorageSOPClassUID", "Manufacturer",
          "RescaleType", "EchoPulseSequence", "AcquisitionDate", "AcquisitionTime", "SeriesInstanceUID"}  # fmt: skip
"""Values that a reader acts upon; the last three get sentinels of their own."""


def identified(number, series=UID + ".1", **elements):
    """A slice in which every attribute of DICOM that can hold text, a date, a time or a UID holds a sentinel.

    That is more than the Basic Application Level Confidentiality Profile of DICOM PS3.15 lists.
    """
    dataset = classic(number, **elements)
    dataset.SeriesInstanceUID, dataset.AcquisitionDate, dataset.AcquisitionTime = series, DATE, TIME
    dataset.Manufacturer = f"SIEMENS {WORD}"
    count = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in VALUES and keyword not in STEERS and tag >> 16 > 7:
            dataset.add_new(tag, vr, VALUES[vr])
            count += 1
    item = pydicom.Dataset()
    item.PatientName, item.StudyDate, item.SOPInstanceUID = WORD, DATE, UID
    item.ReferencedPatientSequence = Items([pydicom.Dataset()])
    item.ReferencedPatientSequence[0].PatientID = WORD
    dataset.ReferencedImageSequence = Items([item])
    dataset.OriginalAttributesSequence = Items([item])
    dataset.private_block(0x29, f"{WORD} PRIVATE", create=True).add_new(0x10, "OB", WORD.encode() * 9)
    dataset.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(0x0C, "LO", WORD)
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000011, "US", 8)
    dataset.add_new(0x60000022, "LO", WORD)
    dataset.add_new(0x60003000, "OW", (WORD * 2).encode())
    dataset.add_new(0x60004000, "LT", WORD)
    assert count > 1000
    return dataset


def nifti(path):
    image = nib.Nifti1Image(phantom((8, 8, 4)), np.eye(4))
    image.header["descrip"], image.header["aux_file"], image.header["db_name"] = WORD, WORD, WORD
    image.header["intent_name"] = WORD
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, (WORD * 3).encode()))
    nib.save(image, path)
    told = {"PatientName": WORD, "AcquisitionDateTime": DATE, "SeriesInstanceUID": UID, "EchoTime": 0.02}
    path.with_suffix(".json").write_text(json.dumps(told))


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["reconstruction_rss"] = phantom((3, 8, 8))
        file["reconstruction_rss"].attrs["comment"] = WORD
        file["ismrmrd_header"] = f"<ismrmrdHeader><patientName>{WORD}</patientName><x>{DATE}</x><TE>9</TE>"
        file.attrs.update({"patient_id": WORD, "acquisition": f"AXT2 {WORD}", "operator": WORD})


def phase(path):
    """A volume that is refused, so that its message goes into the log."""
    save(identified(0, ImageType=["ORIGINAL", "PRIMARY", "P"]), path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Everything that a build and what follows it leave behind: corpus, run folder, report, export."""
    folder = tmp_path_factory.mktemp("identity")
    source = folder / "source"
    for number in range(3):
        save(identified(number), source / "one" / f"{number}.dcm")
        save(identified(number), source / "two" / f"{number}.dcm")
        save(identified(number, UID + ".2"), source / "two" / f"b{number}.dcm")
    nifti(source / "n.nii")
    hdf5(source / "h.h5")
    phase(source / "p.dcm")
    rows = [f"v-{path.stem},{path.name}" for path in sorted(source.iterdir()) if path.suffix != ".json"]
    manifest = write_manifest(source / "m.csv", rows)
    out = folder / "out"
    out.mkdir()
    corpus = str(out / "c.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        assert main(["build", str(manifest), corpus, "--phase", "smooth", "--workers", "1"]) == 1
        assert main(["verify", corpus]) == 0
        main(["report", corpus])
        main(["export", corpus, str(out / "export"), "--format", "fastmri"])
    return out


def test_what_should_be_built_was(built):
    names = {path.name for path in (built / "c.zarr" / "volumes").iterdir() if path.is_dir()}
    assert names == {"v-one", "v-n", "v-h"}
    failures = json.loads(next(built.rglob("failures.json")).read_text())
    assert {name: failure["reason"] for name, failure in failures.items()} == {
        "v-two": "ambiguous", "v-p": "not_magnitude",
    }  # fmt: skip


@pytest.mark.parametrize("part", ["c.zarr", "c.zarr.run", "report", "export"])
def test_no_identity_is_in_what_a_build_leaves(built, part):
    files = [path for path in built.rglob("*") if path.is_file()]
    chosen = [
        path
        for path in files
        if path.relative_to(built).parts[0] == part or (part == "report" and path.suffix == ".html")
    ]
    assert chosen
    for path in chosen:
        content = path.read_bytes()
        assert [word for word in SENTINELS if word in content or word.decode() in path.name] == [], path


def test_the_search_would_find_an_identity(built):
    content = (built.parent / "source" / "one" / "0.dcm").read_bytes()
    assert all(word in content for word in SENTINELS)
    assert WORD.encode() in (built.parent / "source" / "n.nii").read_bytes()


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "a/b", "/etc/x", "a\\b", "C:\\x", ".hidden", "__init__", "zarr.json", "ZARR.json", "a\0b",
     "a\nb", "a@1", "ａ", "x" * 129, "", " ", "a b", "%2e%2e", "~", "$HOME", "c:x"],
)  # fmt: skip
def test_no_name_leads_out_of_a_corpus(name):
    assert volume_id_problem(name) is not None


def test_nothing_is_unpickled_from_a_file():
    """Dask's own messages between processes are another matter: cluster/README.md says what protects them."""
    import ast

    found = []
    for package in ("augment", "cluster", "diffusion", "manifests"):
        for path in sorted((PROJECT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found += [f"{path.name}:{node.lineno}" for _ in [0] if _unpickles(node)]
    assert found == []


def _unpickles(node):
    import ast

    banned = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in banned for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in banned
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    ):
        return False
    words = {keyword.arg: keyword.value for keyword in node.keywords}
    if (node.func.value.id, node.func.attr) == ("torch", "load"):
        return not (isinstance(words.get("weights_only"), ast.Constant) and words["weights_only"].value is True)
    if node.func.value.id in ("np", "numpy") and node.func.attr in ("load", "fromregex"):
        allowed = words.get("allow_pickle")
        return allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False)
    return False


def test_the_search_for_unpickling_would_find_it():
    import ast

    for text in ("import pickle", "from joblib import load", "torch.load(f)", "torch.load(f, weights_only=False)",
                 "np.load(f, allow_pickle=True)"):  # fmt: skip
        assert any(_unpickles(node) for node in ast.walk(ast.parse(text))), text
    for text in ("torch.load(f, weights_only=True)", "np.load(f)", "import json"):
        assert not any(_unpickles(node) for node in ast.walk(ast.parse(text))), text


def test_dashboards_and_workers_listen_on_loopback():
    from distributed import Security

    from rephase.cluster.connect import DASHBOARD_ADDRESS
    from rephase.cluster.local import LocalShape, _scheduler_spec, _worker_specs

    assert DASHBOARD_ADDRESS.startswith("127.0.0.1:")
    security = Security()
    options = [
        _scheduler_spec(DASHBOARD_ADDRESS, security)["options"],
        *(s["options"] for s in _worker_specs(LocalShape(2, 1, 1), security, {}).values()),
    ]
    for found in options:
        assert found["host"] == "127.0.0.1"
        assert found["dashboard_address"].startswith("127.0.0.1:")
