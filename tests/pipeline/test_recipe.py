from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import describe_differences, make_recipe
from rephase.corpus.layout import canonical_hash
from rephase.diffusion.checkpoint import load_checkpoint
from rephase.diffusion.learned import GPU_TILE
from rephase.diffusion.shipped import default_checkpoint, shipped_weights
from rephase.errors import RequestError
from rephase.facts import facts_where
from rephase.manifests.record import ManifestRow
from rephase.pipeline.environment import Machine, common_classes, common_device, environment_class
from rephase.pipeline.recipe import ALGORITHM, COMPANION_COLUMNS, ROW_COLUMNS, Tile, row_fingerprint, row_hash

ROW = ManifestRow(line=2, volume_id="a", path="/data/a.npy", subject_id="s", split="train", te_ms=30.0)
SOURCE = "0" * 64


def test_canonical_hash_is_that_of_the_sorted_text():
    text = '{"a":[1,2.5,null],"b":{"c":"\\u00e9","d":true}}'
    document = {"b": {"d": True, "c": "é"}, "a": [1, 2.5, None]}
    assert canonical_hash(document) == hashlib.sha256(text.encode()).hexdigest()


def test_equal_options_give_an_equal_hash_and_others_another():
    base = BuildOptions(phase="smooth")
    recipe = make_recipe(base)
    same = (
        replace(base, batch_size=7, workers=3, replicas=4, cluster="tcp://a:1", retry_failed=True),
        replace(base, memory_limit=10**9, overwrite=True, allow_mixed_devices=True, keep_columns=()),
    )
    other = (
        replace(base, seed=1),
        replace(base, phase="zero"),
        replace(base, negative="clip"),
        replace(base, keep_columns=("site",)),
    )
    assert {make_recipe(options).hash for options in same} == {recipe.hash}
    hashes = {make_recipe(options).hash for options in other}
    assert len(hashes) == len(other) and recipe.hash not in hashes
    assert replace(recipe, tile=Tile(slices=16)).hash != recipe.hash
    assert replace(recipe, algorithm=ALGORITHM + 1).hash != recipe.hash
    assert replace(recipe, checkpoint_sha256="a" * 64).hash != recipe.hash


def test_physics_has_no_weights():
    recipe = make_recipe(BuildOptions(phase="field"))
    assert recipe.checkpoint_sha256 is None and recipe.nfe == 0


def test_order_of_kept_columns_makes_no_difference():
    hashes = {make_recipe(BuildOptions(phase="zero", keep_columns=kept)).hash for kept in (("a", "b"), ("b", "a"))}
    assert len(hashes) == 1


def test_row_hash_ignores_where_row_and_file_stand():
    moved = replace(ROW, line=99, path="/elsewhere/b.npy", num_slices=3, height=4, width=5, replicas=2, source="x")
    assert row_hash(moved, SOURCE) == row_hash(ROW, SOURCE)


def test_row_hash_counts_every_column_that_changes_what_is_stored():
    values = {
        "volume_id": "b", "subject_id": "t", "split": "val", "anatomy": "knee", "contrast": "T1", "field_t": 3.0,
        "te_ms": 31.0, "sequence": "bssfp", "slice_axis": 1, "series": "1.2", "echo": 2, "frame": 1, "dataset": "x",
        "licence": "CC0",
        "extra": (("site", "1"),), "phase": "/p", "kspace": "/k", "segmentation": "/s",
    }  # fmt: skip
    assert set(values) == {*ROW_COLUMNS, *COMPANION_COLUMNS, *facts_where(in_manifest=True)}
    hashes = {row_hash(replace(ROW, **{name: value}), SOURCE) for name, value in values.items()}
    later = {"part": "water", "axes": "height width", "spacing_mm": (4.0, 1.0, 1.0)}
    # not in ROW_COLUMNS, so that earlier hashes stay
    hashes |= {row_hash(replace(ROW, **{name: value}), SOURCE) for name, value in later.items()}
    assert len(hashes | {row_hash(ROW, SOURCE), row_hash(ROW, "1" * 64)}) == len(values) + len(later) + 2


def test_row_hash_does_not_depend_on_paths_of_associated_files():
    assert row_hash(replace(ROW, phase="/p"), SOURCE) == row_hash(replace(ROW, phase="/q"), SOURCE)


def test_fingerprint_sees_an_edited_path_but_not_the_line():
    assert row_fingerprint(replace(ROW, line=7)) == row_fingerprint(ROW)
    assert row_fingerprint(replace(ROW, path="/data/b.npy")) != row_fingerprint(ROW)


def test_differences_name_the_option_and_both_values():
    old, new = make_recipe(BuildOptions(phase="smooth")), make_recipe(BuildOptions(phase="zero", seed=5))
    lines = describe_differences(old.to_json(), replace(new, tile=Tile(slices=16)).to_json())
    assert lines == [
        'phase: corpus has "smooth", requested "zero"',
        "seed: corpus has 0, requested 5",
        "tile.slices: corpus has 1, requested 16",
    ]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"phase": "fancy"}, "expected one of diffusion, real"),
        ({"phase": "zero", "steps": 4}, "--steps requires --phase diffusion"),
        ({"phase": "regression", "steps": 1}, "--steps requires --phase diffusion"),
        ({"phase": "real", "checkpoint": Path("c")}, "--checkpoint requires --phase diffusion or regression"),
        ({"negative": "keep"}, "--negative keep"),
        ({"replicas": 0}, "--replicas 0"),
        ({"batch_size": -1}, "--batch-size"),
        ({"workers": 1.5}, "--workers 1.5"),
    ],
)
def test_options_that_contradict_themselves_are_refused(changes, match):
    with pytest.raises(RequestError, match=match):
        BuildOptions(**changes)


def test_a_regression_is_recorded_with_its_weights():
    weights = shipped_weights("regression")
    assert weights is not None
    recipe = make_recipe(BuildOptions(phase="regression"))
    assert (recipe.phase, recipe.nfe, recipe.checkpoint_sha256) == ("regression", 1, load_checkpoint(weights).sha256)
    assert make_recipe(BuildOptions(phase="regression"), "cuda").tile.slices == GPU_TILE
    assert make_recipe(BuildOptions(phase="regression", checkpoint=weights)) == recipe
    for wrong in (BuildOptions(checkpoint=weights), BuildOptions(phase="regression", checkpoint=default_checkpoint())):
        with pytest.raises(RequestError, match=r"weights for --phase (regression|diffusion); expected some for"):
            make_recipe(wrong)


def test_missing_checkpoint_is_a_request_error(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        make_recipe(BuildOptions(checkpoint=tmp_path / "none.safetensors"))


def machine(kind: str = "cpu", cpu: str = "Intel AVX2", algorithm: int = ALGORITHM) -> Machine:
    classes = {device: {"device": device, "cpu": cpu, "architecture": "x", "torch": "2"} for device in {"cpu", kind}}
    return Machine(kind, algorithm, classes)


def test_workers_of_one_kind_share_a_class():
    machines = {"a": machine(), "b": machine()}
    assert common_device(machines, uses_model=True) == "cpu"
    assert len(common_classes(machines, "cpu", allow_mixed=False)) == 1


def test_mixed_workers_are_refused_unless_allowed():
    machines = {"a": machine(), "b": machine(cpu="AMD AVX512")}
    with pytest.raises(RequestError, match=r"of 2 kinds .*AVX2.*AVX512.*--allow-mixed-devices"):
        common_classes(machines, "cpu", allow_mixed=False)
    assert len(common_classes(machines, "cpu", allow_mixed=True)) == 2


def test_gpu_and_cpu_workers_cannot_share_a_model_but_a_baseline():
    machines = {"a": machine("cuda"), "b": machine()}
    with pytest.raises(RequestError, match="worker a has a GPU and worker b has none"):
        common_device(machines, uses_model=True)
    assert common_device(machines, uses_model=False) == "cpu"
    assert len(common_classes(machines, "cpu", allow_mixed=False)) == 1


def test_another_version_on_a_worker_is_refused():
    with pytest.raises(RequestError, match="worker b has algorithm version"):
        common_device({"a": machine(), "b": machine(algorithm=ALGORITHM + 1)}, uses_model=False)


def test_environment_of_this_machine_names_torch_and_the_instruction_set():

    environment = environment_class("cpu")
    assert environment["torch"] == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in environment["cpu"]
