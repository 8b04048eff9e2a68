"""A fact of one's own: one line in `rephase.facts` and a reader that knows it; everything else follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from paths import PROJECT, TESTS
from volumes import phantom

from rephase.facts import FACTS, Fact, VolumeFacts, facts_where, hashed_facts, known_facts, receipt_facts
from rephase.manifests.record import OPTIONAL_COLUMNS, ManifestRow
from rephase.pipeline.recipe import row_fingerprint, row_hash

LINES = """\
    flip_deg: float | None = _fact("number", "flip angle", unit="degrees")
    coil: str | None = _fact("text", "receive coil", words=("head", "body"))
    coil_assumed: bool | None = _fact("flag", "whether the coil is assumed", in_manifest=False)
    voxel_mm: tuple[float, float, float] | None = _fact("triple", "voxel size", unit="millimetres", in_index=False)
"""

SCRIPT = """
import sys, types
from dataclasses import replace
from pathlib import Path

folder, source, lines = sys.argv[1:]
facts = sys.modules["rephase.facts"] = types.ModuleType("rephase.facts")
text = Path(source).read_text()
last = "    licence: "
head, _, tail = text.partition(last)
line, _, tail = tail.partition("\\n")
exec(compile(head + last + line + "\\n" + lines + tail, source, "exec"), facts.__dict__)

import rephase.readers.npy as npy
original = npy.read

def read(row, limit_bytes=None):  # a reader that knows the facts, from a header that this format has not
    volume, arrangement = original(row, limit_bytes)
    if row.volume_id == "known":
        header = facts.VolumeFacts(flip_deg=30.0, coil="body", coil_assumed=True, te_ms=9.0)
        volume = replace(volume, **facts.known_facts(row, header))
    return volume, arrangement

npy.read = read

import h5py
from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import make_recipe
from rephase.corpus.index import read_index
from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.exports.export import ExportOptions, export_corpus
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.task import Task
from rephase.pipeline.worker import open_worker

corpus = folder + "/c.zarr"
recipe = make_recipe(BuildOptions(phase="smooth"))
open_corpus(corpus, recipe, False)
worker = open_worker(corpus, recipe, environment_class("cpu"))
unknown, known = read_manifest(folder + "/m.csv")
assert (known.flip_deg, known.coil, known.voxel_mm) == (None, "head", (3.0, 1.0, 1.5)), known
assert (unknown.flip_deg, unknown.coil, unknown.voxel_mm) == (None, None, None), unknown
assert build_volume(Task(unknown), worker).status == "built"
write_index(worker.store, ["unknown"])
assert b"flip_deg" not in Path(corpus, "index/zarr.json").read_bytes()
assert KSpaceSlices(corpus)[0][3]["coil"] == ""
assert build_volume(Task(known), worker).status == "built"
write_index(worker.store, ["known", "unknown"])
assert verify_corpus(corpus).problems == []

receipt = CorpusStore.open(corpus).receipt("known")
found = {key: receipt[key] for key in ("flip_deg", "coil", "coil_assumed", "voxel_mm", "te_ms")}
assert found == {
    "flip_deg": 30.0, "coil": "head", "coil_assumed": True, "voxel_mm": [3.0, 1.0, 1.5], "te_ms": 9.0
}, found
assert read_index(corpus).columns["flip_deg"] == [30.0, None]

attrs = [KSpaceSlices(corpus, volumes=[name])[0][3] for name in ("known", "unknown")]
assert [one["flip_deg"] for one in attrs][:1] == [30.0] and attrs[1]["flip_deg"] != attrs[1]["flip_deg"]
assert [one["coil"] for one in attrs] == ["head", ""]
assert [one["coil_assumed"] for one in attrs] == [True, False]
assert KSpaceSlices(corpus, coil="head").volumes == ["known"]
assert KSpaceSlices(corpus, where=lambda row: row["flip_deg"] > 10).volumes == ["known"]
for wrong, error in ((dict(coil="knee"), RequestError), (dict(flip_deg="30"), TypeError), (dict(coyl="x"), TypeError)):
    try:
        KSpaceSlices(corpus, **wrong)
    except error as caught:
        assert "coil" in str(caught), caught
    else:
        raise AssertionError(wrong)

export_corpus(corpus, folder + "/out", ExportOptions())
with h5py.File(folder + "/out/known.h5") as file:
    assert file.attrs["flip_deg"] == 30.0 and file.attrs["coil"] == "head" and file.attrs["coil_assumed"]
    assert file.attrs["voxel_mm"].tolist() == [3.0, 1.0, 1.5]
with h5py.File(folder + "/out/unknown.h5") as file:
    assert "flip_deg" not in file.attrs

wrong = Path(folder, "wrong.csv")
wrong.write_text("volume_id,path,flip_deg,coil,voxel_mm\\na,a.npy,steep,knee,1 2\\n")
try:
    read_manifest(wrong)
except ValueError as error:
    assert [word in str(error) for word in ("degrees", "head, body", "millimetres")] == [True] * 3, error
else:
    raise AssertionError("faulty cells were accepted")
"""


def test_a_fact_is_one_line_and_the_reader_that_knows_it(tmp_path: Path) -> None:
    import numpy as np

    for seed, name in enumerate(("known", "unknown")):
        np.save(tmp_path / f"{name}.npy", phantom(seed, (2, 16, 18)))
    (tmp_path / "m.csv").write_text(
        "volume_id,path,coil,voxel_mm,flip_deg\nunknown,unknown.npy,,,\nknown,known.npy,head,3 1 1.5,\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    arguments = [str(tmp_path), str(PROJECT / "augment/facts.py"), LINES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # whatever lacks the facts keeps its hash and its bytes
    row = ManifestRow(line=2, volume_id="unknown", path=str(tmp_path / "unknown.npy"))
    attributes = json.loads((tmp_path / "c.zarr/volumes/unknown/zarr.json").read_text())["attributes"]
    assert attributes["row_hash"] == row_hash(row, attributes["source_sha256"])
    assert not attributes.keys() & {"flip_deg", "coil", "coil_assumed", "voxel_mm"}


def test_hashes_name_a_new_fact_only_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ManifestRow(line=2, volume_id="a", path="a.npy", te_ms=3.0)
    hashes = row_hash(row, "0" * 64), row_fingerprint(row)
    monkeypatch.setitem(FACTS, "te_ms", replace(FACTS["te_ms"], always=False))
    monkeypatch.setitem(FACTS, "field_t", replace(FACTS["field_t"], always=False))
    assert set(hashed_facts(row)) == {"split", "anatomy", "contrast", "te_ms", "licence"}
    assert set(receipt_facts(known_facts(row))) == {"split", "anatomy", "contrast", "te_ms", "licence"}
    assert (row_hash(row, "0" * 64), row_fingerprint(row)) != hashes


def test_the_first_source_that_knows_a_fact_gives_it() -> None:
    row = ManifestRow(line=2, volume_id="a", path="a.npy", te_ms=3.0, split="val")
    found = known_facts(row, VolumeFacts(te_ms=5.0, contrast="T1"))
    assert (found["te_ms"], found["contrast"], found["split"], found["field_t"]) == (3.0, "T1", "val", None)
    assert set(found) == set(FACTS)


@pytest.mark.parametrize(
    ("fact", "good", "bad"),
    [
        (Fact("text", ""), ["x"], ["", 3, True]),
        (Fact("number", "", unit="T"), [3, 1.5], [0, -1, float("nan"), float("inf"), True, "3"]),
        (Fact("number", "", unit="ms", may_be_zero=True), [0, 3.5], [-1, False]),
        (Fact("triple", "", in_index=False), [[1, 2.0, 3]], [[1, 2], [1, 2, 0], (1, 2, 3), 1.0]),
        (Fact("flag", ""), [True, False], [1, "true"]),
    ],
)
def test_values_of_a_fact_are_checked(fact: Fact, good: list[object], bad: list[object]) -> None:
    assert all(fact.accepts(value) for value in [*good, None])
    assert not any(fact.accepts(value) for value in bad)
    assert fact.expected.endswith("or null")


def test_every_fact_of_a_manifest_is_a_column() -> None:
    assert set(facts_where(in_manifest=True)) <= set(OPTIONAL_COLUMNS)
    with pytest.raises(ValueError, match="index"):
        Fact("triple", "")
