"""Rows of one exam share their field; the direction of the field; what a receipt says about the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from volumes import phantom, write_manifest

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import check_exams, open_corpus
from rephase.builder.resolve import make_recipe, resolve_build
from rephase.corpus.receipt import check_receipt
from rephase.diffusion.seen import Seen
from rephase.errors import RequestError
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.sampling import conditions_of, main_field_of
from rephase.pipeline.task import Task
from rephase.pipeline.worker import open_worker
from rephase.readers.registry import read_volume

HEADER = "volume_id,path,te_ms,sequence,field_t,exam,subject_id"


def ball() -> np.ndarray:
    """A bright ball without noise, in whose phase nothing but the field differs."""
    z, y, x = np.ogrid[-2:2, -24:24, -20:20]
    return (1.0 / (1.0 + np.exp((np.sqrt((4.0 * z) ** 2 + y**2 + x**2) - 16.0) / 2.0))).astype(np.float32)


def built(folder: Path, rows: list[str], **options: Any) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Receipts and phase of the volumes of a manifest whose files all have the same magnitude."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "v.npy", ball())
    asked = BuildOptions(phase="field", seed=5, **options)
    manifest = read_manifest(write_manifest(folder / "m.csv", rows, HEADER), asked.read_columns)
    check_exams(manifest, asked.share_field_by)
    recipe = make_recipe(asked)
    root = str(folder / "c.zarr")
    open_corpus(root, recipe, overwrite=False)
    worker = open_worker(root, recipe, environment_class("cpu"))
    receipts, phases = [], []
    for row in manifest:
        outcome = build_volume(Task(row), worker)
        assert outcome.receipt is not None, outcome.message
        kspace = zarr.open_array(f"{root}/volumes/{row.volume_id}/kspace", mode="r")[:]
        image = np.fft.ifftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2))), axes=(1, 2))
        receipts.append(outcome.receipt)
        phases.append(np.exp(1j * np.angle(image)))
    return receipts, phases


FRAMES = [f"{name},v.npy,4,gradient-echo,3,{exam},s1" for name, exam in (("a", "x"), ("b", "x"), ("c", "y"), ("d", ""))]


@pytest.mark.parametrize("column", ["exam", "subject_id"])
def test_rows_of_one_exam_share_their_field(tmp_path: Path, column: str) -> None:
    receipts, (a, b, c, d) = built(tmp_path, FRAMES, share_field_by=column)
    inside = ball() > 0.3

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.median(np.abs(np.angle((one * other.conj())[inside]))))

    assert apart(a, b) < 0.05
    if column == "exam":
        assert min(apart(a, c), apart(a, d), apart(c, d)) > 0.3
    else:
        assert apart(a, d) < 0.05
    assert all("columns" not in receipt and check_receipt(receipt) == [] for receipt in receipts)
    _, again = built(tmp_path / "again", FRAMES, share_field_by=column)
    np.testing.assert_array_equal(again, [a, b, c, d])
    _, alone = built(tmp_path / "alone", FRAMES)
    assert apart(alone[0], alone[1]) > 0.3


def test_echoes_of_an_exam_differ_by_what_the_echo_time_does(tmp_path: Path) -> None:
    echoes = [f"e{te},v.npy,{te},gradient-echo,3,x,s1" for te in (2, 4, 6)]
    _, (first, second, third) = built(tmp_path, echoes, share_field_by="exam")
    inside = ball() > 0.3
    bend = np.angle((third * first * second.conj() ** 2)[inside])
    assert np.median(np.abs(bend)) < 0.1


def test_the_column_of_the_exam_is_checked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--share-field-by path: this column has a meaning of its own"):
        BuildOptions(share_field_by="path")
    with pytest.raises(RequestError, match=r"no row has a value in column exam"):
        built(tmp_path, ["a,v.npy,4,,3,,s1"], share_field_by="exam")
    assert BuildOptions(share_field_by="exam", keep_columns=("site",)).read_columns == ("exam", "site")


def test_a_corpus_of_an_earlier_algorithm_has_no_exams(tmp_path: Path) -> None:
    recipe = replace(make_recipe(BuildOptions(phase="zero")), algorithm=9)
    store = open_corpus(str(tmp_path / "c.zarr"), recipe, overwrite=False)
    assert "share_field_by" not in store.attributes["recipe"]
    with pytest.raises(RequestError, match=r"begun with algorithm 9, which has no --share-field-by"):
        resolve_build(str(tmp_path / "c.zarr"), BuildOptions(phase="zero", share_field_by="exam"), store=store)


def test_the_main_field_follows_from_the_orientation_and_the_magnet(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", phantom(0, (4, 48, 40)))
    volume = read_volume(tmp_path / "v.npy")
    assert main_field_of(volume) is None  # an array has no orientation
    axial = replace(volume, acquisition={})
    assert main_field_of(axial) == (1.0, 0.0, 0.0)
    coronal = replace(axial, affine=((0, 0, 1, 0), (1, 0, 0, 0), (0, -2, 0, 0), (0, 0, 0, 1)))
    assert main_field_of(coronal) == (0.0, -1.0, 0.0)
    assert main_field_of(replace(coronal, field_t=0.055)) == (1.0, 0.0, 0.0)  # vertical, from front to back
    oblique = replace(axial, affine=((0, 0, 1, 0), (3, 0.8, 0, 0), (4, -0.6, 0, 0), (0, 0, 0, 1)))
    assert main_field_of(oblique) == pytest.approx((0.8, -0.6, 0.0))
    known = conditions_of(oblique, magnitude=oblique.magnitude).volume
    assert known is not None and known.main_field == main_field_of(oblique)
    apart = replace(oblique, spacing_mm=(15.0, 1.0, 1.0))
    assert conditions_of(apart, magnitude=apart.magnitude).volume is None  # slices with gaps
    assert conditions_of(oblique, 9, oblique.magnitude).volume is None


def test_a_receipt_names_the_licence_of_the_weights_and_the_distance_from_what_they_saw(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", phantom(0, (2, 48, 40)))
    rows = ["a,v.npy,4,gradient-echo,3,,", "b,v.npy,8,gradient-echo,7,,", "c,v.npy,90,spin-echo,3,,"]
    manifest = read_manifest(write_manifest(tmp_path / "m.csv", rows, HEADER))
    resolved = resolve_build("", BuildOptions(phase="diffusion"))
    assert resolved.licence is not None
    assert resolved.notes() == [f"licence of the weights of --phase diffusion: {resolved.licence}"]
    recipe = resolved.recipe()
    open_corpus(str(tmp_path / "c.zarr"), recipe, overwrite=False)
    worker = open_worker(str(tmp_path / "c.zarr"), recipe, environment_class("cpu"), checkpoint=resolved.checkpoint)
    assert worker.generator is not None
    worker.generator.seen = Seen(("gradient-echo",), fields_t=(3.5,), dephasing_ms=(1.0, 4.0))
    receipts = [build_volume(Task(row), worker).receipt or {} for row in manifest]
    assert [receipt["out_of_distribution"] for receipt in receipts] == [0.0, 2.0, 1.0]
    assert [receipt.get("weights_licence") for receipt in receipts] == [resolved.licence, resolved.licence, None]
    assert [check_receipt(receipt) for receipt in receipts] == [[], [], []]
