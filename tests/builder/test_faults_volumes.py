"""Volumes that crash or hang their worker, and volumes of unusual sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from build_process import PROJECT, build_arguments, running
from volumes import phantom, write_manifest, write_volumes

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.builder.runlog import RunLog, read_failures
from rephase.cli import main
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.manifests.parse import read_manifest
from rephase.pipeline.recipe import row_fingerprint


@pytest.fixture
def faulty(tmp_path) -> tuple[Path, Path, dict[str, str]]:
    """A manifest of two good volumes and two faulty ones, the log of their reads, and the environment of workers."""
    manifest = write_volumes(tmp_path, 2)
    for name in ("crashes", "hangs"):
        np.save(tmp_path / f"{name}.npy", phantom(3))
    lines = ["v0,v0.npy", "crashes,crashes.npy", "hangs,hangs.npy", "v1,v1.npy"]
    log = tmp_path / "readings.txt"
    log.touch()
    preload = str(PROJECT / "tests" / "faulty_reader.py")
    environment = {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": preload,
        "FAULTY_READER_LOG": str(log),
        # Dask closes a nanny whose worker is not back after this time; so soon, no worker is
        "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1ms",
    }
    return write_manifest(manifest, lines), log, environment


def test_a_volume_that_kills_or_hangs_its_worker_twice_is_marked_failed(
    faulty, scheduler, tmp_path, capsys, record_property
):
    record_property("fault", "a volume that crashes or hangs its worker")
    manifest, log, environment = faulty
    root = tmp_path / "c.zarr"
    arguments = (*build_arguments(manifest, root, num_workers=1), "--time-limit", "10")
    with running(*arguments, "--json", **environment) as process:
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors
    summary = json.loads(output)
    assert (summary["built"], list(summary["failed"])) == (2, ["crashes", "hangs"]), (summary["failed"], errors)
    assert summary["failed"]["crashes"]["reason"] == "worker_lost"
    assert summary["failed"]["hangs"]["reason"] == "timeout"
    assert "time limit of 10 s, as the only task of its worker, in _faulty" in summary["failed"]["hangs"]["message"]
    assert "--time-limit" in summary["failed"]["hangs"]["message"]
    readings = [line.split()[0] for line in log.read_text().splitlines()]
    assert 3 <= len(readings) <= 4, readings  # each twice; one may not have got to its reading when the other crashed
    assert verify_corpus(root).ok

    # the next run retries neither, also on workers whose reader is not faulty
    assert main(["build", str(manifest), str(root), "--phase", "smooth", "--cluster", scheduler, "--json"]) == 1
    output = capsys.readouterr().out
    assert set(json.loads(output)["not_retried"]) == {"crashes", "hangs"}
    assert log.read_text().count("\n") == len(readings)


def test_a_strike_counts_in_the_next_run_too(faulty, tmp_path, record_property):
    record_property("fault", "a volume that crashes or hangs its worker")
    manifest, log, environment = faulty
    write_manifest(manifest, ["crashes,crashes.npy", "v0,v0.npy"])
    root = tmp_path / "c.zarr"
    recipe = make_recipe(BuildOptions(phase="smooth"))
    (row, _) = read_manifest(manifest)
    with RunLog(str(root), {}) as earlier:
        earlier.strike("crashes", row_fingerprint(row), recipe.hash)
    with running(*build_arguments(manifest, root, num_workers=1), "--json", **environment) as process:
        output, errors = process.communicate(timeout=600)
    assert json.loads(output)["failed"]["crashes"]["reason"] == "worker_lost", errors
    assert len(log.read_text().splitlines()) == 1
    assert set(read_failures(str(root))) == {"crashes"}


SHAPES = {
    "zeros": (2, 16, 16),
    "one-slice": (1, 24, 20),
    "one-column": (3, 24, 1),
    "one-row": (3, 1, 24),
    "one-voxel": (1, 1, 1),
    "odd": (3, 31, 17),
    "two-thousand": (2000, 8, 8),
}


@pytest.mark.parametrize("phase", [pytest.param("smooth", marks=pytest.mark.reliability), "diffusion"])
def test_volumes_of_strange_sizes_are_right(scheduler, tmp_path, phase, record_property, capsys):
    record_property("fault", "zeros, one slice, one column, odd sizes, 2,000 slices")
    shapes = {name: shape for name, shape in SHAPES.items() if phase == "smooth" or name != "two-thousand"}
    magnitudes = {name: phantom(number, shape) for number, (name, shape) in enumerate(shapes.items())}
    magnitudes["zeros"][:] = 0
    magnitudes["one-voxel"][:] = 3
    for name, magnitude in magnitudes.items():
        np.save(tmp_path / f"{name}.npy", magnitude)
    manifest = write_manifest(tmp_path / "m.csv", [f"{name},{name}.npy" for name in shapes])
    root = tmp_path / "c.zarr"
    status = main(["build", str(manifest), str(root), "--phase", phase, "--cluster", scheduler, "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert (status, summary["failed"]) == (0, {})
    assert verify_corpus(root).ok
    store = CorpusStore.open(root)
    import zarr

    for name, magnitude in magnitudes.items():
        receipt = store.receipt(name) or {}
        kspace = np.asarray(zarr.open_group(root, mode="r")[f"volumes/{name}/kspace"][:])
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
        assert kspace.shape == magnitude.shape
        error = np.abs(np.abs(image) * receipt["scale"] - magnitude).max()
        assert error <= 1e-5 * max(float(magnitude.max()), 1e-30)
