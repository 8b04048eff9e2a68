import pickle
import sys
from pathlib import Path

import pytest
from paths import PROJECT

from rephase.manifests.manifest import check_files
from rephase.manifests.parse import ManifestError, read_manifest
from rephase.manifests.record import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, ManifestRow


@pytest.fixture
def write(tmp_path):
    def write_text(content: str | bytes) -> Path:
        path = tmp_path / "m.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_text


def problems_of(path, keep_columns=()):
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, keep_columns)
    prefix = f"{path}:"
    assert all(problem.startswith(prefix) and "\n" not in problem for problem in caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def test_every_understood_column_reaches_its_field(write, tmp_path):
    cells = {
        "volume_id": "a-1_B.c", "path": "x/../y.nii.gz", "format": "nifti", "subject_id": "s1", "split": "val",
        "anatomy": "brain", "contrast": "T2star", "field_t": "2.89", "te_ms": "4.6", "sequence": "bssfp",
        "slice_axis": "2", "series": "1.2.3", "part": "water",
        "echo": "2", "frame": "0", "dataset": "/group/data", "axes": "height width", "spacing_mm": "4 1 1.5",
        "phase": "p.nii", "kspace": "", "segmentation": "s.nii",
        "replicas": "3", "num_slices": "20", "height": "256", "width": "192", "licence": "CC0",
        "source": "here",
    }  # fmt: skip
    assert set(cells) == set(REQUIRED_COLUMNS + OPTIONAL_COLUMNS)
    manifest = read_manifest(write(f"{','.join(cells)}\n{','.join(cells.values())}\n"))
    assert manifest[0] == ManifestRow(
        line=2, volume_id="a-1_B.c", path=str(tmp_path / "y.nii.gz"), format="nifti", subject_id="s1", split="val",
        anatomy="brain", contrast="T2star", field_t=2.89, te_ms=4.6, sequence="bssfp", slice_axis=2,
        series="1.2.3", part="water", echo=2,
        frame=0, dataset="/group/data", axes="height width", spacing_mm=(4.0, 1.0, 1.5),
        phase=str(tmp_path / "p.nii"), kspace=None,
        segmentation=str(tmp_path / "s.nii"), replicas=3,
        num_slices=20, height=256, width=192, licence="CC0", source="here", extra=(),
    )  # fmt: skip


def test_empty_cells_and_absent_columns_are_none_and_format_is_auto(write, tmp_path):
    row = read_manifest(write("volume_id,path,format,echo,te_ms,split\na,b,,,,\n"))[0]
    assert row == ManifestRow(line=2, volume_id="a", path=str(tmp_path / "b"))


def test_byte_order_mark_crlf_quotes_and_blank_lines(write, tmp_path):
    text = '\ufeffpath,volume_id,note\r\n\r\n"a, b/ü.nii",x,"said ""so"""\r\n"c.nii",y,"two\r\nlines"\r\nd,z,\r\n'
    manifest = read_manifest(write(text))
    assert [(row.line, row.volume_id, row.path) for row in manifest] == [
        (3, "x", str(tmp_path / "a, b" / "ü.nii")),
        (4, "y", str(tmp_path / "c.nii")),
        (6, "z", str(tmp_path / "d")),
    ]


def test_urls_and_absolute_paths_stay(write):
    manifest = read_manifest(write("volume_id,path\na,s3://bucket/../x.nii\nb,/data/x\nc,memory://y\n"))
    assert [row.path for row in manifest] == ["s3://bucket/../x.nii", "/data/x", "memory://y"]


def test_relative_manifest_gives_absolute_paths(write, monkeypatch):
    monkeypatch.chdir(write("volume_id,path\na,b/c\n").parent)
    assert read_manifest("m.csv")[0].path == str(Path.cwd() / "b" / "c")


def test_sequence_behaviour(write):
    manifest = read_manifest(write("volume_id,path\n" + "".join(f"v{i},p\n" for i in range(5))))
    assert len(manifest) == 5
    assert manifest[-1] == manifest[4] == list(manifest)[4]
    assert [row.volume_id for row in manifest[1:3]] == ["v1", "v2"]
    with pytest.raises(IndexError):
        manifest[5]
    assert pickle.loads(pickle.dumps(manifest[2])) == manifest[2]  # noqa: S301


def test_all_problems_at_once_in_the_order_of_lines(write):
    text = (
        "volume_id,path,format,contrast,field_t,slice_axis,echo,split,replicas\n"
        "../x,p,nifti,T1,3,0,1,train,1\n"  # 2: id
        "Abc,p,tiff,t1,fast,3,-1,dev,0\n"  # 3: seven cells
        "aBC,,nifti,T1,,,,,\n"  # 4: duplicate, empty path
        "ok,p,nifti\n"  # 5: ragged
        "fine,p,nifti,T1,nan,1.0,1e1,train,2\n"  # 6: three cells
    )
    problems = problems_of(write(text))
    assert [int(problem.split(":")[0]) for problem in problems] == [2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 6, 6, 6]
    joined = "\n".join(problems)
    for part in (
        "volume_id '../x'",
        "unknown format 'tiff'; expected auto, dicom, nifti, mgh, minc, nrrd, parrec, hdf5, npy",
        "unknown contrast 't1'; expected T1, T2,",
        "write 'T1'",
        "field_t is 'fast'",
        "slice_axis is '3'",
        "echo is '-1'",
        "unknown split 'dev'; expected train, val, test",
        "replicas is '0'",
        "4: volume_id 'aBC' is already in line 3",
        "4: path",
        "5: has 3 fields",
        "6: field_t is 'nan'",
        "6: slice_axis is '1.0'",
        "6: echo is '1e1'",
    ):
        assert part in joined


@pytest.mark.parametrize("name", ["te_ms", "field_t"])
def test_what_is_not_known_is_empty_not_zero(write, name):
    (problem,) = problems_of(write(f"volume_id,path,{name}\na,p,0\n"))
    assert problem.startswith(f"2: {name} is '0'; expected ") and "empty" in problem


@pytest.mark.parametrize("name", ["a", "A.b_c-d", "9", "-x", "_x", "a" * 128, "zarr.jsonx"])
def test_allowed_ids(write, name):
    assert read_manifest(write(f"volume_id,path\n{name},p\n"))[0].volume_id == name


@pytest.mark.parametrize(
    "name",
    ["", ".a", "__a", "a/b", "a b", "a" * 129, "zarr.json", "ZARR.json", "ä", "a@1", "../x", "a\\b", '"a\n"', "a:b"],
)
def test_refused_ids(write, name):
    (problem,) = problems_of(write(f"volume_id,path\n{name},p\n"))
    assert problem.startswith("2: volume_id")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1: is empty"),
        (b"volume_id,path\n", "1: has a header but no rows"),
        (b"\n\nvolume_id,path\n\n", "3: has a header but no rows"),
        (b"volume_id;path\na;b\n", "1: has one column 'volume_id;path'"),
        (b"volume_id\na\n", "1: column 'path' is missing"),
        (b"Volume_ID,path\na,b\n", "rename 'Volume_ID'"),
        (b"volume_id,path,path\na,b,c\n", "1: column 'path'"),
        (b"volume_id,path\na,\xe9\n", "2: byte 0xe9 at position 2"),
        (b"volume_id,path\na,b\0\n", "2: has a NUL byte"),
        ("volume_id,path\na,b\n".encode("utf-16"), "1: is UTF-16"),
        (b'volume_id,path\na,"b"c\n', "2: is not CSV"),
        (b'volume_id,path\na,"b\nc,d\n', "2: is not CSV"),
        (b"volume_id,path,te_ms\na,b,\"1,5\"\n", "write a decimal point"),
        (b"volume_id,path,te_ms\na,b,1_5\n", "2: te_ms is '1_5'"),
        (b"volume_id,path,phase,kspace\na,b,c,d\n", "2: names phase and kspace"),
    ],
)  # fmt: skip
def test_one_problem(write, content, expected):
    assert expected in "\n".join(problems_of(write(content)))


def test_a_missing_manifest_is_a_request_error(tmp_path):
    (problem,) = problems_of(tmp_path / "none.csv")
    assert problem.startswith("1: ")


def test_unknown_columns_are_ignored_unless_kept(write):
    path = write("volume_id,path,site,scanner,rank\na,b,north,x,1\nc,d,,y,2\n")
    assert [row.extra for row in read_manifest(path)] == [(), ()]
    kept = read_manifest(path, ("rank", "site"))
    assert [row.extra for row in kept] == [(("rank", "1"), ("site", "north")), (("rank", "2"), ("site", ""))]
    (problem,) = problems_of(path, ["colour"])
    assert "column 'colour' is missing" in problem


def test_the_printed_list_is_short_and_the_total_is_kept(write):
    with pytest.raises(ManifestError) as caught:
        read_manifest(write("volume_id,path\n" + "a b,p\n" * 3000))
    error = caught.value
    assert (error.total, len(error.problems)) == (3000, 1000)
    assert str(error).count("\n") == 50
    assert "2950 more" in str(error).splitlines()[-1]
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.problems, again.total) == (error.problems, error.total)


def test_problems_name_their_lines_far_behind_the_first_block(write):
    rows = [f"v{i},p{i}" for i in range(100_000)]
    rows[90_000] = "V7,again"
    rows[95_000] = "x/y,p"
    problems = problems_of(write("volume_id,path\n" + "\n".join(rows) + "\n"))
    assert [problem.split(" is ")[0] for problem in problems] == ["90002: volume_id 'V7'", "95002: volume_id 'x/y'"]
    assert "line 9;" in problems[0]
    rows[90_000], rows[95_000] = "w,again", "x,p"
    manifest = read_manifest(write("volume_id,path\n" + "\n".join(rows) + "\n"))
    assert (len(manifest), manifest[99_999].volume_id, manifest[90_000].path[-5:]) == (100_000, "v99999", "again")


def test_check_files_lists_missing_files(write, tmp_path):
    (tmp_path / "here.nii").touch()
    path = write("volume_id,path,phase\na,here.nii,\nb,gone.nii,here.nii\nc,here.nii,gone-too.nii\n")
    first, second = check_files(read_manifest(path))
    assert first.startswith(f"{path}:3: path {tmp_path / 'gone.nii'} ")
    assert second.startswith(f"{path}:4: phase {tmp_path / 'gone-too.nii'} ")


def test_the_example_shows_every_column_and_is_valid():
    path = PROJECT / "manifests" / "examples" / "every_column.csv"
    manifest = read_manifest(path)
    assert set(manifest.columns) == set(REQUIRED_COLUMNS + OPTIONAL_COLUMNS)
    for name in REQUIRED_COLUMNS + OPTIONAL_COLUMNS:
        assert any(getattr(row, name) is not None for row in manifest)
    assert {row.format for row in manifest} == {"dicom", "nifti", "hdf5", "npy", "mat"}


def test_the_work_grows_with_the_lines_and_no_faster(tmp_path):
    # calls are counted, not seconds: doubled names, wrong cells, too many fields and stray quotes, all at once
    def num_calls(times):
        path = tmp_path / f"{times}.csv"
        block = 'a,"x,1.nii",1\nb,y,-1\na,x\na,"x"y,2\n"a\nb,y,3\n'
        path.write_text("volume_id,path,echo\n" + block * times, encoding="utf-8")
        counted = 0

        def count(frame, event, argument):
            nonlocal counted
            counted += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            with pytest.raises(ManifestError):
                read_manifest(path)
        finally:
            sys.setprofile(before)
        return counted

    first, second, third = num_calls(1000), num_calls(2000), num_calls(4000)
    assert abs((third - second) / (second - first) - 2) < 0.05
