"""The phase that a build gives a volume follows the family of its pulse sequence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from pydicom.data import get_testdata_file
from volumes import phantom, write_manifest

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import make_recipe
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.recipe import ALGORITHM
from rephase.pipeline.task import Task
from rephase.pipeline.worker import open_worker
from rephase.readers.registry import read_volume


def built(folder: Path, columns: str, cells: str, phase: str = "diffusion", algorithm: int = ALGORITHM) -> Any:
    """Receipt and image of one volume with these columns."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "v.npy", phantom(0, (2, 32, 40)))
    manifest = read_manifest(write_manifest(folder / "m.csv", [f"v,v.npy,{cells}"], f"volume_id,path,{columns}"))
    recipe = replace(make_recipe(BuildOptions(phase=phase, seed=5)), algorithm=algorithm)
    root = str(folder / f"c{algorithm}.zarr")
    open_corpus(root, recipe, overwrite=False)
    outcome = build_volume(Task(manifest[0]), open_worker(root, recipe, environment_class("cpu")))
    assert outcome.receipt is not None, outcome.message
    kspace = zarr.open_array(f"{root}/volumes/v/kspace", mode="r")[:]
    return outcome.receipt, np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2))), axes=(1, 2))


@pytest.mark.parametrize("cells", ["T2,90,spin-echo", "T2,,", ",90,", "DWI,80,"])
def test_a_spin_echo_gets_the_phase_of_a_spin_echo_stated_or_assumed(tmp_path, cells):
    receipt, _ = built(tmp_path, "contrast,te_ms,sequence", cells)
    stated = cells.endswith("spin-echo")
    assert (receipt["phase_generator"], receipt["nfe"]) == ("spin-echo", 0)
    assert receipt.get("sequence") == ("spin-echo" if stated else None)
    expected = None if stated else "spin-echo-epi" if "DWI" in cells else "spin-echo"
    assert receipt.get("sequence_assumed") == expected


def test_the_echo_time_of_a_spin_echo_changes_no_phase(tmp_path):
    images = [built(tmp_path / te, "te_ms,sequence", f"{te},spin-echo", "field")[1] for te in ("10", "90")]
    np.testing.assert_array_equal(*images)
    others = [built(tmp_path / f"g{te}", "te_ms,sequence", f"{te},gradient-echo", "field")[1] for te in ("3", "9")]
    assert not np.allclose(*others)


def test_a_gradient_echo_is_sampled_by_the_model(tmp_path):
    receipt, _ = built(tmp_path, "contrast,te_ms", "T2star,20")
    assert receipt["phase_generator"] == "diffusion" and receipt["nfe"] > 0
    assert receipt["sequence_assumed"] == "gradient-echo"


def test_a_corpus_of_the_algorithm_before_keeps_its_phase(tmp_path):
    receipt, _ = built(tmp_path, "contrast,te_ms,sequence", "T2,90,spin-echo", algorithm=7)
    assert receipt["phase_generator"] == "diffusion"
    assert not {"sequence", "sequence_assumed"} & set(receipt)


def test_a_dicom_header_states_the_family(tmp_path):
    path = get_testdata_file("MR_small.dcm")
    assert read_volume(path).sequence == "spin-echo"
