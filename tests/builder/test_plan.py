from __future__ import annotations

import pytest
from volumes import write_manifest, write_volumes

from rephase.builder import estimate as sizes_module
from rephase.builder import plan as plan_module
from rephase.builder.estimate import MOST_HEADERS, measure_sizes
from rephase.builder.options import BuildOptions
from rephase.builder.plan import make_plan
from rephase.builder.resolve import make_recipe
from rephase.corpus.storage.local import LocalStorage
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError
from rephase.manifests.parse import read_manifest
from rephase.pipeline.memory import PROCESS_BYTES, VOLUME_FACTOR

SMOOTH = BuildOptions(phase="smooth", workers=2)
SIZED = "volume_id,path,num_slices,height,width,replicas"


def test_sizes_that_the_manifest_states_are_exact_and_no_file_is_opened(tmp_path):
    lines = ["a,gone.npy,10,64,32,", "b,gone.npy,20,64,32,3", "c,gone.npy,5,128,128,"]
    sizes = measure_sizes(read_manifest(write_manifest(tmp_path / "m.csv", lines, SIZED)), replicas=2)
    assert (sizes.num_volumes, sizes.num_slices) == (2 + 3 + 2, 2 * 10 + 3 * 20 + 2 * 5)
    assert sizes.num_voxels == (2 * 10 + 3 * 20) * 64 * 32 + 2 * 5 * 128 * 128
    assert (sizes.largest, sizes.matrix, sizes.source, sizes.exact) == ((5, 128, 128), (64, 32), "the manifest", True)


def test_sizes_of_a_few_rows_are_read_from_every_header(tmp_path):
    sizes = measure_sizes(read_manifest(write_volumes(tmp_path, 3, (4, 20, 24))), replicas=2)
    assert (sizes.num_slices, sizes.num_voxels, sizes.exact) == (24, 24 * 20 * 24, True)
    assert sizes.source == "3 of 3 headers"


def test_at_most_so_many_headers_are_read_spread_over_the_rows(tmp_path, monkeypatch):
    read = []

    def describe(row):
        read.append(int(row.volume_id[1:]))
        if len(read) == 1:
            raise VolumeError("missing", "v0: is not there")
        return (10, 8, 8)

    monkeypatch.setattr(sizes_module, "describe_row", describe)
    manifest = read_manifest(write_manifest(tmp_path / "m.csv", [f"v{n},v{n}.npy" for n in range(1000)]))
    sizes = measure_sizes(manifest, replicas=1)
    assert MOST_HEADERS / 2 < len(read) <= MOST_HEADERS
    assert max(read) > 990 and min(read) == 0
    assert sizes.unreadable == [("v0", "missing: v0: is not there")]
    assert sizes.num_slices == pytest.approx(10 * 1000 * (len(read) - 1) / len(read))
    assert not sizes.exact and sizes.source == f"{len(read)} of 1000 headers"


def test_rows_with_and_without_sizes_are_distinguished(tmp_path):
    write_volumes(tmp_path, 1, (4, 20, 24))
    manifest = read_manifest(write_manifest(tmp_path / "m.csv", ["a,gone.npy,10,64,32,", "v0,v0.npy,,,,"], SIZED))
    sizes = measure_sizes(manifest, replicas=1)
    assert (sizes.num_slices, sizes.source) == (14, "the manifest and 1 of 2 headers")


def test_a_plan_reports_everything_and_writes_nothing(tmp_path):
    manifest = read_manifest(write_volumes(tmp_path, 3, (4, 40, 48)))
    before = sorted(tmp_path.rglob("*"))
    plan = make_plan(manifest, str(tmp_path / "c.zarr"), SMOOTH)
    assert sorted(tmp_path.rglob("*")) == before
    assert (plan.num_volumes, plan.num_committed, plan.num_slices, plan.num_workers) == (3, 0, 12, 2)
    assert plan.num_bytes == round(12 * 40 * 48 * plan_module.BYTES_PER_VOXEL)
    assert plan.needed_bytes == PROCESS_BYTES + VOLUME_FACTOR * 4 * 4 * 40 * 48
    assert plan.seconds is not None and plan.seconds_per_slice is not None and plan.seconds_per_volume is not None
    work = (
        2 * plan.seconds_per_volume + 8 * plan.seconds_per_slice
    )  # one of the two workers builds two of three volumes
    assert plan.seconds == pytest.approx(work) and 0 < plan.seconds < 60
    text = "\n".join(plan.lines())
    for part in ("volumes:  3, 0 of them committed", "12 (sizes from 3 of 3 headers)", "2 workers", "free", "smooth"):
        assert part in text
    assert "WARNING" not in text


def test_what_would_go_wrong_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda _: 1000)
    write_volumes(tmp_path, 1, (4, 40, 48))
    manifest = read_manifest(write_manifest(tmp_path / "m.csv", ["a,v0.npy", "b,gone.npy"]))
    options = BuildOptions(phase="smooth", workers=1, memory_limit=2**20)
    plan = make_plan(manifest, str(tmp_path / "c.zarr"), options)
    assert plan.missing_bytes == plan.num_bytes - 1000 > 0
    assert plan.too_large == [(4, 40, 48)]
    text = "\n".join(plan.lines())
    assert text.count("WARNING") == 3 and "gone.npy" in text and "the disk lacks" in text and "4 x 40 x 48" in text


def test_an_option_that_the_build_would_refuse_is_refused(tmp_path):
    manifest, root = read_manifest(write_volumes(tmp_path, 1)), tmp_path / "c.zarr"
    CorpusStore.create(root, make_recipe(SMOOTH).attributes())
    with pytest.raises(RequestError, match="seed: corpus has 0, requested 1"):
        make_plan(manifest, str(root), BuildOptions(phase="smooth", seed=1))
    with pytest.raises(RequestError, match="x: cannot be read"):
        make_plan(manifest, str(root), BuildOptions(phase="smooth", cluster="slurm:x"))
