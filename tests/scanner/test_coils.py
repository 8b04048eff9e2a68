"""`--coils`: arrays around an object, in mm; as corpus, loader, export, check and repair."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from export_volumes import ifft2c
from scans import build_outcome, build_scan, write_head
from volumes import volume_bytes, write_volumes

from rephase.builder.options import BuildOptions
from rephase.builder.plan import make_plan
from rephase.builder.repair import RepairOptions, repair_corpus
from rephase.builder.resolve import make_recipe
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.stream import KSpaceStream
from rephase.diffusion.generators import SliceKey
from rephase.errors import RequestError, VolumeError
from rephase.exports.export import ExportOptions, export_corpus
from rephase.manifests.parse import read_manifest
from rephase.reports.samples import read_sample
from rephase.scanner.arrays import ARRAYS, array_for, parse_coils
from rephase.scanner.bank import CoilBank, head_coils, read_bank
from rephase.scanner.expand import CoilMaps, combine
from rephase.scanner.placement import ObjectGeometry, place_coils

KEY = SliceKey(0, "v", 0, 0)
AXIAL = [[0.0, 0.0, 2.0, -100.0], [0.0, 2.0, 0.0, -110.0], [5.0, 0.0, 0.0, -50.0], [0.0, 0.0, 0.0, 1.0]]


def head_geometry() -> ObjectGeometry:
    z, y, x = np.ogrid[-1:1:21j, -1:1:110j, -1:1:100j]
    return ObjectGeometry.of((z / 0.9) ** 2 + (y / 0.85) ** 2 + (x / 0.75) ** 2 < 1, AXIAL)


def test_lazy_and_stored_coils_have_the_same_bytes(lazy: Path, stored: Path) -> None:
    left, right = (KSpaceSlices(root, maps=True) for root in (lazy, stored))
    assert len(left) == 4
    for one, other in zip(left, right, strict=True):
        for part in (0, 1, 2):
            assert one[part].tobytes() == other[part].tobytes() and one[part].shape == other[part].shape
        assert one[3]["sens_maps"].tobytes() == other[3]["sens_maps"].tobytes()
        assert str({**one[3], "sens_maps": 0}) == str({**other[3], "sens_maps": 0})  # NaN is not equal to itself
    kspace, _, target, attributes, _, _ = left[1]
    assert kspace.shape == (6, 48, 40) and attributes["coil_array"] == "brain6"
    images = ifft2c(kspace)
    rss = np.sqrt((np.abs(images) ** 2).sum(0))
    assert np.abs(rss - target).max() <= 1e-5 * attributes["max"]
    # the object's own phase and that of the coils are separable
    combined = combine(attributes["sens_maps"], images)
    assert np.abs(np.abs(combined) - target).max() <= 1e-5 * attributes["max"]
    streamed = next(iter(KSpaceStream(lazy, shuffle=False)))
    assert streamed[0].tobytes() == left[0][0].tobytes()


def test_the_receipt_describes_object_and_coils_separately(lazy: Path, stored: Path) -> None:
    receipts = [CorpusStore.open(root).receipt("head") for root in (lazy, stored)]
    assert receipts[0] is not None and receipts[1] is not None
    assert receipts[0]["phase_generator"] == "smooth" and receipts[0]["coils"] == receipts[1]["coils"]
    assert set(receipts[0]["coils"]) == {"array", "count", "shift_mm", "turn_deg", "size"}
    assert (receipts[0]["storage"], receipts[1]["storage"]) == ("image+maps", "kspace")
    assert set(receipts[0]["arrays"]) == {"image", "coil_coefficients", "reconstruction_rss"}
    assert (
        receipts[0]["checksums"]["coil_coefficients/c.0.0.0.0"]
        == receipts[1]["checksums"]["coil_coefficients/c.0.0.0.0"]
    )


def test_both_forms_are_sound_and_reported(lazy: Path, stored: Path) -> None:
    for root in (lazy, stored):
        assert verify_corpus(root).problems == []
        sample = read_sample(CorpusStore.open(root), "head")
        assert sample.image_source.startswith("coils combined")
        assert np.abs(np.abs(sample.image) - sample.magnitude).max() < 1e-3


def test_exports_of_both_forms_are_equal(lazy: Path, stored: Path, tmp_path: Path) -> None:
    for form in ("fastmri", "bart", "ismrmrd"):
        for root, name in ((lazy, "l"), (stored, "s")):
            summary = export_corpus(root, tmp_path / form / name, ExportOptions(file_format=form))
            assert summary.exit_status == 0
    with h5py.File(tmp_path / "fastmri/l/head.h5") as one, h5py.File(tmp_path / "fastmri/s/head.h5") as other:
        assert set(one) == {"kspace", "reconstruction_rss", "sens_maps", "ismrmrd_header"} == set(other)
        assert all(one[key][()].tobytes() == other[key][()].tobytes() for key in one)
        assert one["kspace"].shape == (4, 6, 48, 40) and one.attrs["coil_array"] == "brain6"
    for name in ("kspace.cfl", "sens_maps.cfl", "reconstruction_rss.hdr"):
        assert (tmp_path / "bart/l/head" / name).read_bytes() == (tmp_path / "bart/s/head" / name).read_bytes()


def test_damage_is_found_and_repaired_byte_for_byte(head: Path, tmp_path: Path) -> None:
    root = build_scan(head, tmp_path / "c.zarr", coils="6")
    before = volume_bytes(root)
    path = root / "volumes/head/coil_coefficients/c.0.0.0.0"
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
    assert any("coil_coefficients" in problem for _, problem in verify_corpus(root).problems)
    with pytest.raises(VolumeError, match="slice 0, coil_coefficients"):
        KSpaceSlices(root)[0]
    execution = BuildOptions(workers=1, dashboard_address="127.0.0.1:0")
    summary = repair_corpus(str(root), RepairOptions(str(head), build=execution), bar=False)
    assert summary.restored == ["head"] and volume_bytes(root) == before


def test_bytes_are_the_same_for_any_number_of_workers(lazy: Path, head: Path, tmp_path: Path) -> None:
    again = build_scan(head, tmp_path / "c.zarr", coils="6", batch_size=3)
    assert volume_bytes(again) == volume_bytes(lazy)


def test_recipes_without_coils_keep_their_hash_and_others_differ(tmp_path: Path) -> None:
    plain = make_recipe(BuildOptions(phase="smooth"))
    assert not {"coils", "storage", "num_coils"} & set(plain.to_json())
    bank = CoilBank(np.ones((1, 4, 5, 5, 5), np.complex64), np.full((1, 3), 400.0), np.full((1, 3), 250.0))
    bank.save(tmp_path / "b.npz")
    asked = [{"coils": "6"}, {"coils": "brain6"}, {"coils": "8"}, {"coils": "6", "storage": "kspace"}]
    asked.append({"coils": f"bank:{tmp_path}/b.npz"})
    recipes = [make_recipe(BuildOptions(phase="smooth", **one)) for one in asked]
    assert len({plain.hash, *(recipe.hash for recipe in recipes)}) == 6
    assert str(tmp_path) not in str(recipes[-1].to_json())


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("count", [2, 7, 15])
def test_arrays_surround_the_object_with_varying_magnitude_and_phase(name: str, count: int) -> None:
    geometry = head_geometry()
    placed = place_coils(f"{name}{count}", None, geometry, None, 3.0, KEY)
    maps = CoilMaps(placed.coefficients, *geometry.shape).sensitivities(10)
    inside = maps[:, 15:95, 15:85]
    shares = (np.abs(inside) ** 2).mean(axis=(1, 2))
    assert shares.max() < (0.8 if count == 2 else 4 / count) and shares.min() > 0.05 / count
    for one in inside:
        assert np.abs(one).max() > 1.5 * np.abs(one).min()
        steps = np.angle(one[1:] * one[:-1].conj())
        assert np.abs(steps).mean() > 2e-3 and np.abs(np.median(steps)) < 0.5


def test_every_volume_and_replica_has_its_own_placement_and_seeds_repeat() -> None:
    geometry = head_geometry()
    keys = [KEY, SliceKey(1, "v", 0, 0), SliceKey(0, "w", 0, 0), SliceKey(0, "v", 1, 0)]
    placed = [place_coils("brain8", None, geometry, None, None, key).coefficients.tobytes() for key in keys]
    assert len(set(placed)) == 4
    assert place_coils("brain8", None, geometry, None, None, SliceKey(0, "v", 0, 7)).coefficients.tobytes() == placed[0]


def test_coils_follow_the_object_and_its_orientation() -> None:
    """The same head, stored sagittally: the maps are those of the axial volume at the same places in the patient."""
    axial = head_geometry()
    matrix = np.array(AXIAL)
    turned = matrix[:, [2, 1, 0, 3]]  # slices along x, width along z
    z, y, x = np.ogrid[-1:1:21j, -1:1:110j, -1:1:100j]
    support = (z / 0.9) ** 2 + (y / 0.85) ** 2 + (x / 0.75) ** 2 < 1
    sagittal = ObjectGeometry.of(support.transpose(2, 1, 0), turned.tolist())
    assert sagittal.centre_mm == pytest.approx(axial.centre_mm) and sagittal.half_mm == pytest.approx(axial.half_mm)
    one, other = (
        CoilMaps(place_coils("brain8", None, geometry, None, None, KEY).coefficients, *geometry.shape)
        for geometry in (axial, sagittal)
    )
    left, right = one.sensitivities(10)[:, :, 50], other.sensitivities(50)[:, :, 10]
    likeness = np.abs((left.conj() * right).sum(0))[20:90]
    assert likeness.min() > 0.995


@pytest.mark.parametrize(
    ("anatomy", "array"),
    [("Brain", "brain"), ("HEAD^ROUTINE", "brain"), ("left knee", "knee"), ("abdomen", "body"), (None, "body")],
)
def test_a_number_selects_the_array_of_the_anatomy(anatomy: str | None, array: str) -> None:
    assert array_for(anatomy) == array


def test_a_head_array_of_fewer_coils_covers_the_same_head() -> None:
    for count in (1, 8, 20, 64):
        coils = head_coils(count)
        assert coils.shape == (count, 5, 5, 5) and torch.isfinite(coils.abs()).all()


def test_a_plan_states_the_bytes_of_both_forms(head: Path, tmp_path: Path) -> None:
    manifest = read_manifest(head)
    one, plain, many = (
        make_plan(manifest, str(tmp_path / "c.zarr"), BuildOptions(phase="zero", **options))
        for options in ({"coils": "15"}, {}, {"coils": "15", "storage": "kspace"})
    )
    assert one.num_bytes <= 1.3 * plain.num_bytes and many.num_bytes > 10 * one.num_bytes
    assert many.needed_bytes > one.needed_bytes and one.seconds is not None and one.seconds > 0
    assert any("15 (15), stored as image+maps" in line for line in one.lines())
    assert one.other_bytes == {"kspace": many.num_bytes} and many.other_bytes == {"image+maps": one.num_bytes}


@pytest.mark.parametrize("text", ["1", "brain65", "heart8", "bank:", "129", "15.0", "-3"])
def test_a_wrong_value_is_one_line(text: str) -> None:
    with pytest.raises(ValueError):
        parse_coils(text)
    with pytest.raises(RequestError, match="--coils") as caught:
        BuildOptions(coils=text)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="requires --coils"):
        BuildOptions(storage="kspace")


def test_coils_without_spacing_fail_in_one_line(tmp_path: Path) -> None:
    outcome = build_outcome(write_volumes(tmp_path, 1), tmp_path / "c.zarr", coils="8")
    assert outcome.reason == "unsupported" and "states no spacing; --coils expects one" in (outcome.message or "")


def test_an_object_beyond_the_field_of_view_fails_in_one_line(tmp_path: Path) -> None:
    manifest = write_head(tmp_path, (2, 48, 40), view_mm=480.0)
    bank = CoilBank(np.ones((1, 4, 5, 5, 5), np.complex64), np.full((1, 3), 400.0), np.full((1, 3), 250.0))
    bank.save(tmp_path / "b.npz")
    for coils in ("brain8", f"bank:{tmp_path}/b.npz"):
        outcome = build_outcome(manifest, tmp_path / f"{coils[:4]}.zarr", coils=coils)
        assert outcome.reason == "unsupported" and "the object measures" in (outcome.message or ""), outcome
        assert "\n" not in (outcome.message or "")
    assert build_outcome(manifest, tmp_path / "body.zarr", coils="body8").status == "built"


@pytest.mark.parametrize("damage", ["missing", "text", "shape", "nan", "key"])
def test_a_wrong_bank_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "b.npz"
    arrays = {"coefficients": np.ones((1, 4, 5, 5, 5), np.complex64), "period_mm": np.full((1, 3), 400.0)}
    arrays["reach_mm"] = np.full((1, 3), 250.0)
    if damage == "shape":
        arrays["coefficients"] = arrays["coefficients"][:, :, :3]
    if damage == "nan":
        arrays["period_mm"][0, 0] = np.nan
    if damage == "key":
        del arrays["reach_mm"]
    if damage == "text":
        path.write_text("not a bank")
    elif damage != "missing":
        np.savez(path, **arrays)
    with pytest.raises(RequestError) as caught:
        read_bank(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_bank_is_used_and_named_by_its_hash(head: Path, tmp_path: Path, random: np.random.Generator) -> None:
    shape = (3, 4, 5, 5, 5)
    values = (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)
    bank = CoilBank(values, np.full((3, 3), 400.0), np.full((3, 3), 260.0))
    bank.save(tmp_path / "b.npz")
    root = build_scan(head, tmp_path / "c.zarr", coils=f"bank:{tmp_path}/b.npz")
    store = CorpusStore.open(root)
    receipt = store.receipt("head")
    assert receipt is not None and receipt["coil_array"] == "bank4" and receipt["coils"]["array_of_bank"] in range(3)
    assert store.attributes["recipe"]["coils"] == f"bank:{read_bank(tmp_path / 'b.npz').sha256}"
    assert verify_corpus(root).problems == []
    shutil.rmtree(root)
