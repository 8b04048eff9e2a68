"""fastMRI's own folders as a source: scanned, read from reconstructions or from k-space, with and without phase."""

import h5py
import numpy as np
import pytest
from export_volumes import fft2c, make_coils, make_image

from rephase.cli import main
from rephase.errors import VolumeError
from rephase.ismrmrd_header import ismrmrd_header
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.manifests.scan import scan_folder
from rephase.manifests.write import write_manifest
from rephase.readers.registry import describe_row, probe, read_volume

FACTS = {
    "encoding_size": [32, 24, 1], "recon_size": [16, 24, 1], "spacing_mm": [3.0, 0.7, 0.8], "num_slices": 2,
    "padding_left": 0, "padding_right": 24, "field_t": 2.8936, "te_ms": 27.0,
}  # fmt: skip


def write(path, acquisition, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        file["ismrmrd_header"] = np.bytes_(ismrmrd_header(path.stem, FACTS, 1))
        file.attrs.update({"acquisition": acquisition, "patient_id": f"p-{path.stem}", "max": 1.0, "norm": 1.0})
    return path


@pytest.fixture
def folder(tmp_path):
    """One file of each kind: with reconstruction, raw single- and multi-coil, and fastMRI's undersampled test data."""
    folder = tmp_path / "multicoil_train"
    folder.mkdir()
    image = make_image(2, 32, 24).astype(np.complex64)
    cut = np.abs(image)[:, 8:24]
    coils = make_coils(2, 4, 32, 24)["kspace"]
    write(folder / "recon.h5", "AXT1POST", kspace=coils, reconstruction_rss=cut)
    write(folder / "single.h5", "CORPDFS_FBK", kspace=fft2c(image))
    write(folder / "coils.h5", "AXFLAIR", kspace=coils)
    write(folder / "test.h5", "AXT2", kspace=coils, mask=np.ones(24, np.float32))
    return folder


def rows_of(folder, tmp_path, **options):
    result = scan_folder(folder, probe, salt="s", **options)
    write_manifest(result, tmp_path / "m.csv")
    return result, {row.path.rsplit("/", 1)[-1]: row for row in read_manifest(tmp_path / "m.csv")}


def test_a_scan_finds_every_fully_sampled_file(folder, tmp_path):
    result, rows = rows_of(folder, tmp_path)
    assert set(rows) == {"recon.h5", "single.h5", "coils.h5"}
    assert result.skipped["unsupported"] == 1
    assert {name: row.contrast for name, row in rows.items()} == {
        "recon.h5": "T1", "single.h5": "PD", "coils.h5": "FLAIR"
    }  # fmt: skip
    assert not any(row.kspace for row in rows.values())
    expected = np.abs(make_image(2, 32, 24))[:, 8:24]
    for row in rows.values():
        volume = read_volume(row)
        np.testing.assert_allclose(volume.magnitude, expected, atol=1e-5)
        assert describe_row(row) == (2, 16, 24) == volume.magnitude.shape
        assert volume.phase is None
        assert (volume.te_ms, volume.field_t, volume.phase_encode) == (27.0, 2.8936, "row")
        np.testing.assert_allclose(volume.spacing_mm, (3.0, 0.7, 0.8))


def test_pairs_keep_the_phase_of_all_of_them(folder, tmp_path):
    _, rows = rows_of(folder, tmp_path, pairs=True)
    assert {name: row.kspace.rsplit("/", 1)[-1] for name, row in rows.items()} == {name: name for name in rows}
    assert set(rows) == {"recon.h5", "single.h5", "coils.h5"}
    image = make_image(2, 32, 24)[:, 8:24]
    volume = read_volume(rows["single.h5"])
    np.testing.assert_allclose(volume.magnitude * np.exp(1j * volume.phase), image, atol=1e-5)
    assert read_volume(rows["coils.h5"]).phase.shape == (2, 16, 24)


def test_kspace_by_name_beside_a_reconstruction(folder):
    row = ManifestRow(line=2, volume_id="v", path=str(folder / "recon.h5"), dataset="kspace")
    np.testing.assert_allclose(read_volume(row).magnitude, np.abs(make_image(2, 32, 24))[:, 8:24], atol=1e-5)
    with pytest.raises(VolumeError, match="recon") as caught:
        read_volume(row, limit_bytes=10_000)
    assert caught.value.reason == "too_large"


def test_an_export_of_generated_phase_is_no_pair(folder, tmp_path):
    for name, generator in (("single.h5", "smooth"), ("coils.h5", "real")):
        with h5py.File(folder / name, "a") as file:
            file.attrs["phase_generator"] = generator
    _, rows = rows_of(folder, tmp_path, pairs=True)
    assert set(rows) == {"recon.h5", "coils.h5"}
    with pytest.raises(VolumeError, match="smooth"):
        read_volume(ManifestRow(line=2, volume_id="v", path="single.h5", kspace=str(folder / "single.h5")))


def test_undersampled_data_is_refused_in_one_line(folder):
    with pytest.raises(VolumeError, match="undersampled") as caught:
        read_volume(ManifestRow(line=2, volume_id="v", path=str(folder / "test.h5")))
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("pairs", [False, True])
def test_scan_build_and_export_of_a_folder(folder, tmp_path, pairs, capsys):
    """Scan, build and export: the exported k-space is that of the source where its phase was measured."""
    manifest, corpus, out = tmp_path / "m.csv", tmp_path / "c.zarr", tmp_path / "out"
    words = ["--pairs"] if pairs else []
    assert main(["manifest", "scan", str(folder), "-o", str(manifest), *words]) == 0
    from rephase.bench.phantom import open_smooth_worker
    from rephase.builder.options import BuildOptions
    from rephase.builder.preflight import open_corpus
    from rephase.builder.resolve import make_recipe
    from rephase.corpus.index_writer import write_index
    from rephase.pipeline.build_volume import build_volume
    from rephase.pipeline.task import Task
    from rephase.pipeline.worker import open_worker

    if pairs:
        recipe = make_recipe(BuildOptions(phase="real"))
        open_corpus(str(corpus), recipe, overwrite=False)
        worker = open_worker(str(corpus), recipe, {})
    else:
        worker = open_smooth_worker(corpus)
    rows = {row.path.rsplit("/", 1)[-1]: row for row in read_manifest(manifest)}
    for row in rows.values():
        outcome = build_volume(Task(row), worker)
        assert outcome.status == "built", outcome.message
    write_index(worker.store, [])
    assert main(["export", str(corpus), str(out)]) == 0
    single = rows["single.h5"].volume_id
    receipt = worker.store.receipt(single)
    with h5py.File(out / f"{single}.h5") as file:
        kspace = file["kspace"][...] * receipt["scale"]
    image = make_image(2, 32, 24)[:, 8:24]
    np.testing.assert_allclose((np.abs(kspace) ** 2).sum(), (np.abs(image) ** 2).sum(), rtol=1e-5)
    if pairs:
        np.testing.assert_allclose(kspace, fft2c(image), atol=1e-4)
