"""The page of one volume: its pixels, what is refused, and what a browser shows."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from chromium import find_chromium, look
from phantom_corpus import make_corpus

from rephase.cli import main
from rephase.reports.view import MOST_PIXELS, thinning, write_view


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view") / "c.zarr"
    make_corpus(folder, a={"seed": 1}, b={"seed": 2, "coils": 3})
    return folder


def stack(page: str, kind: str) -> np.ndarray:
    data = re.search(rf'id="data-{kind}">([^<]*)<', page)[1]
    shape = eval(re.search(rf"{kind}: (\[[0-9, ]+\])", page)[1])  # noqa: S307
    return np.frombuffer(zlib.decompress(base64.b64decode(data)), np.uint8).reshape(shape)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_page_has_every_pixel_of_a_volume(root: Path, tmp_path: Path, name: str) -> None:
    page = write_view(root, name, tmp_path / "v.html").read_text()
    magnitude, phase, kspace = (stack(page, kind) for kind in ("magnitude", "phase", "kspace"))
    assert magnitude.shape == phase.shape == kspace.shape == (3, 16, 12)
    assert magnitude.max() == 255 and not magnitude[:, :3].any()  # the border of air
    assert len(np.unique(phase)) > 50 and (kspace.reshape(3, -1).max(axis=1) == 255).all()
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="http' not in page


def test_the_command_writes_beside_the_corpus_and_names_the_others(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["view", str(root)]) == 0
    path = Path(f"{root}.run/view-a.html")
    assert capsys.readouterr().out == f"view: {path}\n" and "1 other volume" in path.read_text()


def test_an_unknown_volume_is_refused_in_one_line(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["view", str(root), "<z>"]) == 2
    error = capsys.readouterr().err
    assert error == f"{root}: no volume '<z>'; expected one of a, b\n"


def test_a_damaged_volume_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "c.zarr"
    make_corpus(folder, a={"seed": 1})
    shard = folder / "volumes" / "a" / "kspace" / "c.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert main(["view", str(folder)]) == 2
    assert "run 'rephase verify" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(1, 5000, 5000), (600, 640, 640), (2000, 100, 90), (20, 256, 256)])
def test_large_volumes_are_thinned(shape: tuple[int, int, int]) -> None:
    step, slice_step = thinning(*shape)
    assert shape[0] // slice_step * (shape[1] // step) * (shape[2] // step) <= MOST_PIXELS
    assert shape != (20, 256, 256) or (step, slice_step) == (1, 1)


def test_a_browser_shows_three_planes(root: Path, tmp_path: Path) -> None:
    if find_chromium() is None:
        pytest.skip("no chromium here")
    path = write_view(root, "a", tmp_path / "v.html")
    seen = look(f"file://{path}", tmp_path, lambda now: "(0 to 2)" in now["text"])
    assert "(0 to 2)" in seen["text"] and seen["canvases"] == 7
