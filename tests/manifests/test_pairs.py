import pytest

from rephase.manifests.pairs import convert, main
from rephase.manifests.parse import read_manifest

TABLE = (
    "volume_id,magnitude,phase,session,split,contrast,te_ms,field_T,licence,shape\n"
    "a,sub/a_m.nii.gz,sub/a_p.nii.gz,s1,train,GRE,4.6,3,MIT,2x2x2\n"
    "b,sub/b_m.nii.gz,sub/b_p.nii.gz,s2,val,IR-EPI,,7?,,\n"
)


def test_table_becomes_a_valid_manifest(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text(TABLE)
    assert convert(tmp_path / "data" / "table.csv", tmp_path / "out" / "pairs.csv") == 2
    first, second = read_manifest(tmp_path / "out" / "pairs.csv")
    assert first.path == str(tmp_path / "data" / "sub" / "a_m.nii.gz")
    assert first.phase == str(tmp_path / "data" / "sub" / "a_p.nii.gz")
    assert (first.subject_id, first.split, first.te_ms, first.field_t) == ("s1", "train", 4.6, 3.0)
    assert (second.contrast, second.te_ms, second.field_t, second.licence) == ("other", None, None, None)


@pytest.mark.parametrize("text", [None, "volume_id,magnitude\na,b\n"])
def test_a_missing_table_or_column_is_one_line(tmp_path, capsys, text):
    table = tmp_path / "table.csv"
    if text:
        table.write_text(text)
    assert main([str(table), "-o", str(tmp_path / "pairs.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not text or line.endswith("no column phase, session; expected volume_id, magnitude, phase, session")
