import json

import numpy as np
import pytest

from augment.errors import RequestError
from augment.evaluate import FLOOR, evaluate_phase, evaluate_phase_command, format_table
from augment.readers import read_volume
from diffusion.select import make_generator
from manifests.parse import read_manifest


@pytest.fixture
def manifest(tmp_path):
    """Two echoes of a smooth phase, one session, and a lone volume of zero phase."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
    magnitude = np.exp(-2 * (x**2 + y**2)).astype(np.float32)[None].repeat(2, 0)
    np.save(tmp_path / "m.npy", magnitude)
    for name, factor in (("e1", 1.0), ("e2", 1.2), ("none", 0.0)):
        np.save(tmp_path / f"{name}.npy", np.angle(np.exp(1j * factor * (2 * x + y * y)))[None].repeat(2, 0))
    path = tmp_path / "pairs.csv"
    path.write_text(
        "volume_id,path,phase,subject_id,split\na1,m.npy,e1.npy,a,val\na2,m.npy,e2.npy,a,val\nb1,m.npy,none.npy,b,val\n"
        "t1,m.npy,e1.npy,t,train\nx1,gone.npy,e1.npy,x,test\n"
    )
    return path


def scores(manifest):
    rows = [(row, read_volume(row)) for row in read_manifest(manifest) if row.split == "val"]
    result = evaluate_phase(rows, [make_generator("zero"), make_generator("white")], seed=0)
    return {(one.session, one.generator): one for one in result}


def test_white_phase_is_farther_from_a_smooth_one_than_zero(manifest):
    table = scores(manifest)
    assert table["a", "white"].gradient > 3 * table["a", "zero"].gradient
    assert table["a", "white"].residues > 200 > table["a", "zero"].residues


def test_a_generator_that_gives_the_real_phase_has_no_distance(manifest):
    one = scores(manifest)["b", "zero"]
    assert one.gradient < 1e-6 and one.structure < 1e-6 and one.residues == 0


def test_floor_stands_beside_sessions_of_several_volumes_only(manifest):
    table = scores(manifest)
    assert 0 < table["a", FLOOR].gradient < table["a", "zero"].gradient
    assert ("b", FLOOR) not in table


def test_command_prints_a_table_or_json(manifest, capsys):
    generators = [make_generator("zero")]
    assert evaluate_phase_command(manifest, "val", generators, 0, as_json=False) == 0
    assert "| b (2 slices) | zero |" in capsys.readouterr().out
    assert evaluate_phase_command(manifest, "val", generators, 0, as_json=True) == 0
    assert {row["session"] for row in json.loads(capsys.readouterr().out)} == {"a", "b"}


def test_rows_that_cannot_be_read_are_named_and_the_rest_goes_on(manifest, capsys):
    assert evaluate_phase_command(manifest, None, [make_generator("zero")], 0, as_json=False) == 1
    out = capsys.readouterr()
    assert "gone.npy" in out.out + out.err and "| t (2 slices)" in out.out


def test_nothing_to_judge_is_a_request_error(manifest):
    with pytest.raises(RequestError, match=r"gone\.npy"):
        evaluate_phase_command(manifest, "test", [make_generator("zero")], 0, as_json=False)


def test_table_has_a_line_per_score(manifest):
    rows = list(scores(manifest).values())
    assert len(format_table(rows).splitlines()) == 2 + len(rows)
