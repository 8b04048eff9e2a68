"""The public functions: what a notebook or a script calls."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from volumes import phantom, write_volumes

import rephase


def test_importing_the_package_loads_nothing_heavy_and_takes_no_time():
    code = (
        "import sys, time; start = time.process_time(); import rephase; used = time.process_time() - start\n"
        "heavy = {'torch', 'numpy', 'dask', 'distributed', 'zarr'} & set(sys.modules)\n"
        "print(sorted(heavy), used)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, used = done.stdout.split("] ")
    assert heavy == "["
    assert float(used) <= 0.1


@pytest.mark.parametrize("name", rephase.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(rephase, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(rephase)


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        rephase.nonsense  # noqa: B018


def test_the_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "rephase", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"rephase {rephase.__version__}"


@pytest.mark.slow
def test_a_corpus_from_rows_to_a_loader_and_files(tmp_path):
    """`build`, `status`, `verify`, `report`, `export` and the loader, as a notebook uses them."""
    write_volumes(tmp_path, 2)
    rows = [{"volume_id": f"head-{i}", "path": tmp_path / f"v{i}.npy", "te_ms": 5.0} for i in range(2)]
    corpus = tmp_path / "c.zarr"
    expected = rephase.plan(rows, corpus, phase="smooth")
    summary = rephase.build(
        rows, corpus, phase="smooth", seed=3, workers=1, memory_limit="2GB", dashboard_address=":0", progress=False
    )
    assert (summary.built, summary.exit_status) == (2, 0)
    assert expected.num_volumes == 2
    assert rephase.status(corpus).num_committed == 2
    assert rephase.verify(corpus).ok
    assert rephase.report(corpus, tmp_path / "page.html", volumes=1).is_file()
    assert rephase.repair(corpus, dry_run=True).exit_status == 0
    assert rephase.export(corpus, tmp_path / "h5", volumes=["head-1"]).exit_status == 0
    assert [path.name for path in (tmp_path / "h5").iterdir()] == ["head-1.h5"]
    assert len(rephase.KSpaceSlices(corpus)) == summary.num_slices


@pytest.mark.parametrize(
    ("option", "error", "text"),
    [
        ({"sed": 3}, TypeError, "seed"),
        ({"num_workers": 3}, TypeError, "workers"),
        ({"phase": "sinusoid"}, rephase.RephaseError, "sinus"),
        ({"replicas": 0}, rephase.RephaseError, "replicas"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(tmp_path, option, error, text):
    with pytest.raises(error, match=text):
        rephase.build([{"volume_id": "a", "path": "a.npy"}], tmp_path / "c.zarr", **option)
    assert not (tmp_path / "c.zarr").exists()


def test_rows_are_checked_as_a_manifest_is(tmp_path):
    with pytest.raises(rephase.RephaseError) as caught:
        rephase.build([{"volume_id": "a/b", "path": "a.npy"}, {"volume_id": "c"}], tmp_path / "c.zarr")
    assert "rows.csv:2" in str(caught.value)
    assert "rows.csv:3" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_rows_writes_nothing_and_a_build_keeps_the_rows_of_the_runs_before(tmp_path):
    write_volumes(tmp_path / "in", 2)
    rows = [{"volume_id": f"head-{i}", "path": tmp_path / "in" / f"v{i}.npy"} for i in range(2)]
    corpus = tmp_path / "c.zarr"
    assert rephase.plan(rows, corpus, phase="zero").num_volumes == 2
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    for some in (rows[:1], rows, rows):
        summary = rephase.build(some, corpus, phase="zero", workers=1, dashboard_address=":0", progress=False)
        assert summary.exit_status == 0
    assert len(list((tmp_path / "c.zarr.run").glob("rows-*.csv"))) == 2


def test_one_file_is_read_without_a_manifest(tmp_path):
    write_volumes(tmp_path, 1)
    path = tmp_path / "v0.npy"
    volume = rephase.read_volume(path, te_ms=7.5)
    assert isinstance(volume, rephase.Volume)
    assert volume.te_ms == 7.5
    with pytest.raises(TypeError, match="te_ms"):
        rephase.read_volume(path, te_mss=7.5)


@pytest.mark.parametrize("shape", [(24, 20), (2, 24, 20)])
@pytest.mark.parametrize("generator", ["zero", "smooth", "diffusion"])
def test_phase_is_added_to_an_array(shape, generator):
    magnitude = np.broadcast_to(phantom(1, (1, 24, 20))[0], shape)
    image = rephase.add_phase(magnitude, spacing_mm=(1.0, 1.0), seed=4, generator=generator)
    assert image.dtype == np.complex64
    assert np.allclose(np.abs(image), magnitude, rtol=1e-6)
    assert np.array_equal(image, rephase.add_phase(magnitude, spacing_mm=(1.0, 1.0), seed=4, generator=generator))
    if generator != "zero":
        assert not np.allclose(image, rephase.add_phase(magnitude, seed=5, generator=generator))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"magnitude": np.zeros(5)}, "shape"),
        ({"magnitude": np.full((8, 8), np.nan)}, "finite"),
        ({"magnitude": np.full((8, 8), -1.0)}, "negative"),
        ({"spacing_mm": (1.0,)}, "spacing_mm"),
        ({"spacing_mm": (1.0, -1.0)}, "spacing_mm"),
        ({"te_ms": float("nan")}, "te_ms"),
        ({"generator": "nonsense"}, "smooth"),
    ],
)
def test_what_cannot_get_a_phase_is_refused(wrong, text):
    with pytest.raises(rephase.RephaseError, match=text):
        rephase.add_phase(**({"magnitude": np.ones((8, 8)), "generator": "zero"} | wrong))
