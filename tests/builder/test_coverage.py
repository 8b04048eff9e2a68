from __future__ import annotations

import nibabel as nib
import numpy as np
from volumes import phantom, write_manifest

from rephase.builder.coverage import MOST_ROWS, examine
from rephase.builder.options import BuildOptions
from rephase.builder.plan import make_plan
from rephase.diffusion.seen import Seen
from rephase.diffusion.shipped import WEIGHTS
from rephase.manifests.parse import read_manifest

SEEN = Seen(("gradient-echo",), ("brain",), (3.0,), (2.0, 20.0), (1.0, 2.0), (3.0, 6.0))
HEADER = "volume_id,path,sequence,contrast,te_ms,anatomy,field_t"


def test_rows_are_counted_by_family_and_by_what_the_weights_have_not_seen(tmp_path):
    rows = [
        "a,gone.npy,gradient-echo,,5,brain,3",
        "b,gone.npy,,T2star,40,head,2.9",
        "c,gone.npy,,T2,90,knee,1.5",
        "d,gone.npy,,,20,,",
    ]
    found = examine(read_manifest(write_manifest(tmp_path / "m.csv", rows, HEADER)), SEEN)
    assert found.sequences == {"gradient-echo": 2, "spin-echo": 1, "unknown": 1}
    assert found.assumed == {"gradient-echo": 1, "spin-echo": 1}
    assert found.outside == {"dephasing_ms": 1, "sequence": 1, "anatomy": 1, "field_t": 1}
    assert found.num_outside == 2
    lines = found.lines()
    assert lines[0] == "sequence: gradient-echo 2 (1 assumed), spin-echo 1 (1 assumed), unknown 1"
    assert lines[1].startswith("outside:  2 rows unlike what the weights have seen (")


def test_a_header_states_spacing_and_a_name_the_family(tmp_path):
    path = tmp_path / "sub-1_T2w.nii.gz"
    nib.save(nib.Nifti1Image(phantom(0, (24, 20, 6)), np.diag([0.5, 0.5, 12.0, 1.0])), path)
    found = examine(read_manifest(write_manifest(tmp_path / "m.csv", [f"a,{path.name}"])), SEEN)
    assert (found.sequences, found.assumed) == ({"spin-echo": 1}, {})
    assert found.outside == {"sequence": 1, "spacing_mm": 1, "slice_mm": 1}


def test_weights_that_state_nothing_judge_nothing_and_a_long_manifest_is_sampled(tmp_path):
    rows = [f"v{n},v{n}.npy,spin-echo,,,," for n in range(3 * MOST_ROWS)]
    found = examine(read_manifest(write_manifest(tmp_path / "m.csv", rows, HEADER)), None)
    assert found.lines() == [f"sequence: spin-echo {MOST_ROWS} (of {MOST_ROWS} rows of {3 * MOST_ROWS})"]


def test_a_plan_tells_sequences_the_range_of_the_training_data_and_the_licence(tmp_path):
    np.save(tmp_path / "v.npy", phantom(0, (2, 32, 40)))
    manifest = read_manifest(write_manifest(tmp_path / "m.csv", ["a,v.npy,gradient-echo,,5,toe,3"], HEADER))
    plan = make_plan(manifest, str(tmp_path / "c.zarr"), BuildOptions(phase="diffusion", workers=1))
    assert "sequence: gradient-echo 1" in plan.lines()
    assert (plan.coverage.outside["anatomy"], plan.licence) == (1, WEIGHTS["permissive"].licence)
    assert f"licence:  {plan.licence} (of the weights)" in plan.lines()
    assert plan.to_json()["coverage"]["num_outside"] == 1
