from __future__ import annotations

import json
from pathlib import Path

import pytest

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.builder.status import Follower, follow
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError


def _volume(time, name, status="built", **more):
    line = {"event": "volume", "time": time, "name": name, "status": status, "num_slices": 4, "seconds": {"sample": 3}}
    return {**line, "reason": None, "message": None, **more}


@pytest.fixture
def log(tmp_path):
    root = tmp_path / "c.zarr"
    CorpusStore.create(root, make_recipe(BuildOptions(phase="smooth")).attributes())
    path = tmp_path / "c.zarr.run" / "runs" / "20260101T000000.000000Z.jsonl"
    path.parent.mkdir(parents=True)

    def write(*lines, end="\n"):
        with path.open("a") as file:
            file.write("\n".join(json.dumps(line) for line in lines) + end)

    return str(root), write


def test_a_run_is_followed_line_by_line(log):
    root, write = log
    write({"event": "start", "time": 1000.0, "num_volumes": 100})
    follower = Follower(root)
    follower.look()
    assert "0 of 100 (0 %): none yet; 100 left" in follower.lines(1001.0)[1]
    write(*(_volume(1000.0 + i, f"v{i}") for i in range(1, 20)))
    write(_volume(1020.0, "v20", "failed", reason="missing", message="v20: gone"))
    follower.look()
    lines = follower.lines(1021.0)
    assert lines[1] == "volumes: 20 of 100 (20 %): 19 built, 1 failed; 80 left"
    # a volume a second, four slices each but for the last
    assert lines[2].startswith("speed:   3.8 slices/s, about 80 s left")
    assert lines[3] == "stages:  sample 100 %"
    assert lines[-1] == "  v20: missing: v20: gone"
    assert "no progress for" not in lines[0] and "no progress for" in follower.lines(2000.0)[0]


def test_a_line_that_is_being_written_is_waited_for(log):
    root, write = log
    write({"event": "start", "time": 1.0, "num_volumes": 2})
    text = json.dumps(_volume(2.0, "v1"))
    follower = Follower(root)
    file = next(Path(f"{root}.run").glob("runs/*"))
    with file.open("a") as half:
        half.write(text[:20])
    follower.look()
    assert follower.run.counts.total() == 0
    with file.open("a") as rest:
        rest.write(text[20:] + "\n")
    follower.look()
    follower.look()
    assert follower.run.counts == {"built": 1}


def test_following_ends_with_the_run(log):
    root, write = log
    shown = []
    write({"event": "start", "time": 1.0, "num_volumes": 1}, _volume(3.0, "v1"))

    def show(lines):
        shown.append(lines)
        if len(shown) == 2:
            write({"event": "end", "time": 5.0, "interrupted": False, "stopped": None})

    follower = follow(root, show, every_s=0.0)
    assert len(shown) == 3 and follower.run.end == "ended"
    assert "ended after 4 s" in shown[-1][0] and "1.0 slices/s" in shown[-1][2]


def test_a_run_that_built_nothing_has_no_speed(log):
    root, write = log
    write({"event": "start", "time": 1.0, "num_volumes": 1})
    follower = Follower(root)
    follower.look()
    assert follower.lines(2.0)[2] == "speed:   not known yet"
    write({"event": "end", "time": 5.0, "interrupted": False, "stopped": None})
    follower.look()
    assert "no slice was built" in follower.lines(6.0)[2]


def test_a_place_without_a_corpus_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no corpus"):
        Follower(str(tmp_path))
