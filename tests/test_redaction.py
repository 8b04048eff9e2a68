"""What is stored or passed on holds no piece of a path and no secret of a URL, however odd they are."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from rephase import cli
from rephase.errors import RequestError, VolumeError
from rephase.redaction import redact, without_secrets


@pytest.mark.parametrize(
    "name",
    [
        "Doe Jane", "Ward 7: Doe Jane 1977", "Doe; expected: Jane", "Doe's \"scan\" (Jane)", "Doe [Jane], 3",
        "Doe@Jane",
        "Doe?Jane#1", "Doe%20Jane", "Döe Jane", "Doe\\Jane", "Doe  Jane", "Doe ... Jane", "Doe*Jane***",
        "-Doe=Jane",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["{path}", "volume v ({path})", "cannot open '{path}'", "{path}/Jane: 1.dcm"])
def test_no_piece_of_a_path_is_left(tmp_path, name, where):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "Jane: 1.dcm").touch()
    text = f"{where.format(path=folder)}: was cut; expected 12 bytes (in {folder}); copy it again"
    shown = redact(text, [str(folder)], "row 3")
    assert not [word for word in ("Doe", "Döe", "Jane", "1977", str(tmp_path), tmp_path.name) if word in shown], shown
    assert "row 3" in shown and "was cut; expected 12 bytes" in shown and "copy it again" in shown
    (folder / "Jane: 1.dcm").unlink()
    folder.rmdir()
    assert "Jane" not in redact(text, [str(folder)], "row 3")


@pytest.mark.parametrize(
    "text",
    [
        "{url}: cannot be fetched (Cannot connect to host user:PASS%2Fword@h:1)", "b'{url}'", "URL('{url}')",
        "401, message='', url='{url}'", "simplecache::{url}", "<{url}>", "PASS/word is wrong", "X-Amz-Signature=SIGNED",
    ],
)  # fmt: skip
def test_no_secret_of_a_url_is_left(text):
    url = "https://user:PASS%2Fword@h:1/Doe/x.nii.gz?X-Amz-Signature=SIGNED&se=2030#FRAG"
    shown = redact(text.format(url=url), [url], "row 3")
    assert not [word for word in ("PASS", "SIGNED", "FRAG", "Doe", "user:") if word in shown], shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/x.nii: gone", "https://h/x.nii: gone"),
        ("s3://key:SECRET@b/x y", "s3://***@b/x y"),
        ("https://a:b@c@h/p?x=1, and https://h2/?y=2", "https://***@h/p?*** and https://h2/?***"),
        ("me:SECRET@host:22", "***@host:22"),
        ("mail me@host: no secret; 3 = 3", "mail me@host: no secret; 3 = 3"),
        ("m.csv:3: te_ms = 4; expected 1:2 @ 3 T", "m.csv:3: te_ms = 4; expected 1:2 @ 3 T"),
    ],
)
def test_messages_lose_secrets_and_nothing_else(text, shown):
    assert without_secrets(text) == shown
    assert str(RequestError(text)) == shown and str(VolumeError("missing", text)) == shown


def run(*words: object) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        status = cli.main([str(word) for word in words])
    return status, out.getvalue()


def stored(root: Path) -> str:
    """All text that a build leaves in the corpus and beside it, but for the note of where its manifest is."""
    folders = (root, Path(f"{root}.run"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "request.json"]
    return "".join(path.read_bytes().decode("latin-1") for path in files)


@pytest.mark.parametrize("log_paths", [False, True])
def test_a_build_tells_its_user_alone_where_the_sources_are(tmp_path, log_paths):
    place = tmp_path / "Ward 7: Doe Jane"
    place.mkdir()
    (place / "cut.npy").write_bytes(np.lib.format.magic(1, 0) + b"\x10\x00{'descr': '<f4'")
    np.save(place / "good.npy", np.ones((2, 16, 16), np.float32))
    (tmp_path / "m.csv").write_text(
        f'volume_id,path\ngood,"{place}/good.npy"\ncut,"{place}/cut.npy"\n'
        "url,https://user:PASSWORD@127.0.0.1:1/x.nii.gz?X-Amz-Signature=SIGNED\n"
    )
    root = tmp_path / "c.zarr"
    words = ("--phase", "smooth", "--workers", 1, "--dashboard-address", "127.0.0.1:0")
    status, said = run("build", tmp_path / "m.csv", root, *words, *(["--log-paths"] if log_paths else []))
    assert status == 1 and f"{place}/cut.npy" in said
    assert run("report", root, "-o", tmp_path / "r.html")[0] == 0
    status, shown = run("status", root)
    kept, page = stored(root), (tmp_path / "r.html").read_text()
    assert not [word for word in ("PASSWORD", "SIGNED") if word in said + shown + kept + page]
    assert "Doe" not in page and str(tmp_path) not in page and "row 3" in page
    if log_paths:
        assert f"{place}/cut.npy" in shown and "Doe" in kept
    else:
        assert "Doe" not in kept + shown and str(tmp_path) not in kept and "row 3: " in shown
    failures = json.loads((tmp_path / "c.zarr.run/failures.json").read_bytes())
    assert {name: one["line"] for name, one in failures.items()} == {"cut": 3, "url": 4}
    noted = json.loads((tmp_path / "c.zarr.run/request.json").read_bytes())
    assert noted == {"manifest": str(tmp_path / "m.csv"), "checkpoints": [], "banks": []}


def test_an_unexpected_error_shows_no_secret_either(monkeypatch):
    def fail(_: object) -> None:
        raise OSError("cannot open https://user:PASSWORD@h/x?sig=SIGNED")

    monkeypatch.setattr("rephase.commands.build.show_status", fail)
    status, said = run("status", "c.zarr")
    assert status == 1 and "Traceback" in said and "https://***@h/x?***" in said
