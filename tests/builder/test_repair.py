"""Repair: exactly the damaged volumes are rebuilt, byte for byte; a changed source replaces nothing silently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from volumes import phantom, write_manifest, write_volumes

from rephase.builder.options import BuildOptions
from rephase.builder.repair import RepairOptions, repair_corpus
from rephase.builder.run import build
from rephase.builder.runlog import read_failures
from rephase.builder.summary import RepairSummary
from rephase.cli import main
from rephase.corpus.index import INDEX_KEY
from rephase.corpus.layout import group_document
from rephase.corpus.verify import verify_corpus
from rephase.errors import RequestError
from rephase.manifests.parse import read_manifest

NAMES = ("v0", "v0@1", "v1", "v1@1", "v2", "v2@1")


@pytest.fixture(scope="module")
def built(scheduler, tmp_path_factory) -> Path:
    """Three volumes, two replicas of each, in an order of their own: `m.csv` and `c.zarr` in this folder."""
    folder = tmp_path_factory.mktemp("built")
    manifest = write_volumes(folder, 3)
    lines = manifest.read_text().splitlines()
    write_manifest(manifest, [f"{line},train" for line in lines[:0:-1]], "volume_id,path,split")
    options = BuildOptions(phase="smooth", cluster=scheduler, replicas=2, seed=5)
    assert (
        build(read_manifest(manifest), str(folder / "c.zarr"), options, say=lambda _: None, progress=False).built == 6
    )
    return folder


@pytest.fixture
def corpus(built, tmp_path) -> Path:
    """A copy of the corpus with the log beside it; the sources stay where they are."""
    for name in ("c.zarr", "c.zarr.run"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path / "c.zarr"


def repair(corpus: Path, scheduler: str, **options) -> RepairSummary:
    where = {name: options.pop(name) for name in ("overwrite", "allow_mixed_devices") if name in options}
    wanted = RepairOptions(build=BuildOptions(cluster=scheduler, **where), **options)
    return repair_corpus(str(corpus), wanted, say=lambda _: None, bar=False)


def all_bytes(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def edit(corpus: Path, key: str, change) -> None:
    path = corpus / key
    document = json.loads(path.read_text())
    change(document["attributes"])
    path.write_bytes(group_document(document["attributes"], indent=None if key == INDEX_KEY else 2))


def flip(path: Path, position: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 16
    path.write_bytes(data)


DAMAGES = {
    "shard": (lambda c: flip(c / "volumes/v1/kspace/c.0.0.0"), ["v1"]),
    "shard index": (lambda c: flip(c / "volumes/v1@1/kspace/c.0.0.0", 1.0), ["v1@1"]),
    "target gone": (lambda c: (c / "volumes/v0/reconstruction_esc/c.0.0.0").unlink(), ["v0"]),
    "array metadata": (lambda c: flip(c / "volumes/v2/kspace/zarr.json"), ["v2"]),
    "receipt cut": (lambda c: (c / "volumes/v2/zarr.json").write_bytes(b'{"attributes"'), ["v2"]),
    "receipt gone": (lambda c: (c / "volumes/v2@1/zarr.json").unlink(), ["v2@1"]),
    "receipt spelled otherwise": (
        lambda c: (c / "volumes/v1/zarr.json").write_bytes((c / "volumes/v1/zarr.json").read_bytes() + b"\n"),
        ["v1"],
    ),
    "receipt says another value": (lambda c: edit(c, "volumes/v0/zarr.json", lambda a: a.update(split="val")), ["v0"]),
    "receipt says another source": (
        lambda c: edit(c, "volumes/v0/zarr.json", lambda a: a.update(source_sha256="0" * 64, row_hash="1" * 64)),
        ["v0"],
    ),
    "volume gone": (lambda c: shutil.rmtree(c / "volumes/v0"), ["v0"]),
    "index gone": (lambda c: (c / INDEX_KEY).unlink(), []),
    "index cut": (lambda c: (c / INDEX_KEY).write_bytes((c / INDEX_KEY).read_bytes()[:-30]), []),
    "index names another": (
        lambda c: edit(c, INDEX_KEY, lambda a: a["columns"]["name"].__setitem__(2, "w9")),
        [],
    ),
    "index value": (lambda c: edit(c, INDEX_KEY, lambda a: a["columns"]["split"].__setitem__(2, None)), []),
    "index digest": (
        lambda c: edit(c, INDEX_KEY, lambda a: a["columns"]["receipt_sha256"].__setitem__(2, "0" * 64)),
        ["v1"],
    ),
    "root cut": (lambda c: (c / "zarr.json").write_bytes(b"{"), []),
    "root gone": (lambda c: (c / "zarr.json").unlink(), []),
    "root seed": (lambda c: edit(c, "zarr.json", lambda a: a.update(seed=6)), []),
    "root recipe": (lambda c: edit(c, "zarr.json", lambda a: a["recipe"].update(seed=6)), []),
    "volumes group": (lambda c: (c / "volumes/zarr.json").unlink(), []),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_comes_back_byte_for_byte(corpus, scheduler, what, record_property):
    record_property("fault", "every byte region damaged")
    damage, damaged = DAMAGES[what]
    before = all_bytes(corpus)
    damage(corpus)
    assert all_bytes(corpus) != before
    summary = repair(corpus, scheduler)
    assert (summary.exit_status, summary.damaged, summary.restored) == (0, damaged, damaged), summary.lines()
    assert summary.problems and not summary.failed
    assert all_bytes(corpus) == before
    assert verify_corpus(corpus).ok


def test_nothing_else_is_touched_and_a_sound_corpus_needs_no_workers(corpus, scheduler, monkeypatch):
    stamps = {path: path.stat().st_mtime_ns for path in corpus.rglob("*") if path.is_file()}
    flip(corpus / "volumes/v1/kspace/c.0.0.0")
    assert repair(corpus, scheduler).restored == ["v1"]
    touched = {
        path.relative_to(corpus).as_posix() for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp
    }
    assert {key for key in touched if not key.startswith("volumes/v1/")} <= {INDEX_KEY}
    monkeypatch.setattr("rephase.builder.repair.run_tasks", None)
    summary = repair(corpus, scheduler)
    assert (summary.problems, summary.exit_status, summary.num_volumes) == ([], 0, len(NAMES))


def test_a_dry_run_reports_and_changes_nothing(corpus, scheduler):
    flip(corpus / "volumes/v1/kspace/c.0.0.0")
    (corpus / INDEX_KEY).unlink()
    before = all_bytes(corpus.parent)
    summary = repair(corpus, scheduler, dry_run=True)
    assert (summary.exit_status, summary.damaged, summary.documents) == (1, ["v1"], [INDEX_KEY])
    assert "would rebuild 1 volumes" in "\n".join(summary.lines())
    assert all_bytes(corpus.parent) == before


@pytest.mark.parametrize("keep_receipt", [True, False])
def test_a_source_that_changed_is_not_replaced_unless_requested(built, corpus, scheduler, tmp_path, keep_receipt):
    sources = tmp_path / "sources"
    shutil.copytree(built, sources, ignore=shutil.ignore_patterns("*.zarr*"))
    np.save(sources / "v1.npy", phantom(17))
    flip(corpus / "volumes/v1/kspace/c.0.0.0")
    flip(corpus / "volumes/v2/kspace/c.0.0.0")
    if not keep_receipt:
        (corpus / "volumes/v1/zarr.json").unlink()
    before = all_bytes(corpus / "volumes/v1")
    manifest = str(sources / "m.csv")
    summary = repair(corpus, scheduler, manifest=manifest)
    assert (summary.exit_status, summary.restored, set(summary.failed)) == (1, ["v2"], {"v1"})
    assert summary.failed["v1"].reason == "changed" and "--overwrite" in summary.failed["v1"].message
    assert all_bytes(corpus / "volumes/v1") == before
    assert set(read_failures(str(corpus))) == {"v1"}
    if keep_receipt:
        assert not verify_corpus(corpus).ok
        accepted = repair(corpus, scheduler, manifest=manifest, overwrite=True)
        assert (accepted.exit_status, accepted.restored, accepted.replaced) == (0, [], ["v1"])
        assert verify_corpus(corpus).ok


def test_orphan_objects_are_deleted_only_on_request_and_links_are_not_followed(corpus, scheduler, tmp_path):
    before = all_bytes(corpus)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (corpus / "link").symlink_to(outside)
    (corpus / "notes").mkdir()
    (corpus / "notes/a.txt").write_text("a")
    (corpus / "volumes/v1/kspace/c.0.0.1").write_bytes(b"")
    summary = repair(corpus, scheduler)
    assert (summary.exit_status, len(summary.unexpected), summary.removed) == (1, 3, [])
    assert (corpus / "notes/a.txt").exists()
    summary = repair(corpus, scheduler, delete_unexpected=True)
    assert (summary.exit_status, len(summary.removed)) == (0, 3)
    assert all_bytes(corpus) == before and not (corpus / "link").is_symlink()
    assert (outside / "precious").read_text() == "x"


def test_without_a_manifest_the_index_is_repaired_and_volumes_need_one(built, corpus, scheduler):
    before = all_bytes(corpus)
    shutil.rmtree(f"{corpus}.run")
    edit(corpus, INDEX_KEY, lambda a: a["columns"]["split"].__setitem__(2, None))
    assert repair(corpus, scheduler).exit_status == 0
    assert all_bytes(corpus) == before
    flip(corpus / "volumes/v1/kspace/c.0.0.0")
    with pytest.raises(RequestError, match="give --manifest"):
        repair(corpus, scheduler)
    assert repair(corpus, scheduler, manifest=str(built / "m.csv")).restored == ["v1"]
    assert all_bytes(corpus) == before


def test_a_volume_without_a_row_is_listed(corpus, scheduler, tmp_path, built):
    flip(corpus / "volumes/v1/kspace/c.0.0.0")
    flip(corpus / "volumes/v2/kspace/c.0.0.0")
    part = write_manifest(tmp_path / "part.csv", [f"v2,{built / 'v2.npy'},train"], "volume_id,path,split")
    summary = repair(corpus, scheduler, manifest=str(part))
    assert (summary.exit_status, summary.restored, summary.failed["v1"].reason) == (1, ["v2"], "missing")


def test_the_command(corpus, scheduler, capsys):
    assert main(["repair", str(corpus), "--cluster", scheduler]) == 0
    assert "no errors" in capsys.readouterr().out
    flip(corpus / "volumes/v1/kspace/c.0.0.0")
    assert main(["repair", str(corpus), "--cluster", scheduler, "--dry-run"]) == 1
    assert "v1: kspace/c.0.0.0 does not match its checksum" in capsys.readouterr().out
    assert main(["repair", str(corpus), "--cluster", scheduler, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["restored"] == ["v1"]
    assert main(["verify", str(corpus)]) == 0
    assert main(["repair", str(corpus / "none")]) == 2
    assert "no corpus here" in capsys.readouterr().err


@pytest.mark.parametrize("root_too", [False, True])
def test_volumes_that_are_lost_with_the_index_or_beside_a_damaged_root_come_back(corpus, scheduler, root_too):
    before = all_bytes(corpus)
    if root_too:
        data = bytearray((corpus / "zarr.json").read_bytes())
        data[0] ^= 1
        (corpus / "zarr.json").write_bytes(data)
    else:
        (corpus / INDEX_KEY).unlink()
    shutil.rmtree(corpus / "volumes/v1")
    (corpus / "volumes/v2@1/zarr.json").unlink()
    summary = repair(corpus, scheduler)
    assert sorted(summary.restored) == ["v1", "v2@1"]
    assert summary.exit_status == 0
    assert all_bytes(corpus) == before


def test_without_index_and_log_what_is_left_or_requested_is_missing(corpus, built):
    (corpus / INDEX_KEY).unlink()
    shutil.rmtree(corpus.with_name("c.zarr.run"))
    shutil.rmtree(corpus / "volumes/v1")
    (corpus / "volumes/v2@1/zarr.json").unlink()
    with pytest.raises(RequestError, match="1 damaged volumes, the first is v2@1"):
        repair_corpus(str(corpus), RepairOptions(dry_run=True))
    options = RepairOptions(dry_run=True, manifest=str(built / "m.csv"), build=BuildOptions(replicas=2))
    summary = repair_corpus(str(corpus), options)
    assert sorted(summary.damaged) == ["v1", "v2@1"]
    assert summary.exit_status == 1


def test_a_source_that_changed_since_is_no_substitute_for_a_volume_lost_with_the_index(corpus, scheduler, built):
    (corpus / INDEX_KEY).unlink()
    shutil.rmtree(corpus / "volumes/v1")
    log = next((corpus.with_name("c.zarr.run") / "runs").iterdir())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line.get("name") == "v1":
            line["receipt_sha256"] = "0" * 64  # as of other bytes
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = repair(corpus, scheduler)
    assert (summary.restored, list(summary.failed), summary.exit_status) == ([], ["v1"], 1)
    assert summary.failed["v1"].reason == "changed"


def test_an_index_of_a_corpus_of_two_recipes_is_rebuilt_from_its_log(corpus, scheduler, built):
    options = BuildOptions(phase="smooth", cluster=scheduler, seed=6, overwrite=True)
    one = built / "one.csv"
    one.write_text("\n".join((built / "m.csv").read_text().splitlines()[:2]) + "\n")
    assert build(read_manifest(one), str(corpus), options, say=lambda _: None, progress=False).built == 1
    before = all_bytes(corpus)
    assert verify_corpus(corpus).problems == []
    (corpus / INDEX_KEY).unlink()
    assert repair(corpus, scheduler).exit_status == 0
    assert {key: before[key] for key in before if key != INDEX_KEY} == {
        key: data for key, data in all_bytes(corpus).items() if key != INDEX_KEY
    }
    assert verify_corpus(corpus).problems == []
