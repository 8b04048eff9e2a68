from __future__ import annotations

import json
from pathlib import Path

import pytest

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.builder.status import Follower, describe_builder, follow, read_status
from rephase.corpus.lease import Holder, Lease
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError
from rephase.progress import InWork, Progress


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
    assert "0 of 100: none yet; 100 left" in follower.lines(1001.0)[1]
    write(*(_volume(1000.0 + i, f"v{i}") for i in range(1, 20)))
    write(_volume(1020.0, "v20", "failed", reason="missing", message="v20: gone"))
    follower.look()
    lines = follower.lines(1021.0)
    assert lines[1] == "volumes: 20 of 100: 19 built, 1 failed; 80 left"
    assert lines[2] == "stages:  sample 100 %"
    assert lines[-1] == "  v20: missing: v20: gone"
    assert "not running: it ended without a word" in lines[0]


LONG = Progress(
    1.0, num_volumes=2, slices_per_s=0.5, seconds_left=90.0, share=0.25, in_work=(InWork("v1", 83, 256, 9),)
)


def test_a_long_volume_is_in_work_and_its_builder_beats(log):
    root, write = log
    write({"event": "start", "time": 1000.0, "num_volumes": 2})
    run = next(Path(f"{root}.run").glob("runs/*")).name
    Path(f"{root}.run/progress.json").write_text(json.dumps({"run": run, **LONG.to_json()}))
    follower = Follower(root)
    follower.look()
    with Lease(root):
        lines = follower.lines(5000.0)  # no line of the log for more than an hour
        status = read_status(root).lines()
    assert "running: process" in lines[0] and "last heartbeat 0 s ago" in lines[0]
    assert lines[2].startswith("work:    25 % done, 0.5 slices/s, about 90 s left, until ")
    assert lines[3] == "in work: v1: 83 of 256 slices"
    assert any(line.startswith("builder:   running: process") for line in status)
    assert "in work:   v1: 83 of 256 slices" in status
    assert not any("killed" in line for line in [*lines, *status])
    after = read_status(root).lines()  # the lease was given back
    assert not any("in work" in line for line in after) and any("not running" in line for line in after)


def test_the_progress_of_another_run_is_not_shown(log):
    root, write = log
    write({"event": "start", "time": 1000.0, "num_volumes": 2})
    Path(f"{root}.run/progress.json").write_text(json.dumps({"run": "earlier.jsonl", **LONG.to_json()}))
    with Lease(root):
        assert not any("in work" in line for line in read_status(root).lines())
    Path(f"{root}.run/progress.json").write_text('{"run": 3')
    assert read_status(root).progress is None


def test_a_builder_that_is_gone_or_silent_is_named(log):
    assert "process 7 on box is gone" in describe_builder(Holder(7, "box", False, 3.0))
    assert describe_builder(Holder(7, "box", None, 300.0)).startswith("no heartbeat of process 7 on box for 5 min")


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
    assert "ended after 4 s" in shown[-1][0] and shown[-1][2] == "speed:   1.0 slices/s"


def test_a_run_that_built_nothing_has_no_speed(log):
    root, write = log
    write({"event": "start", "time": 1.0, "num_volumes": 1})
    follower = Follower(root)
    follower.look()
    write({"event": "end", "time": 5.0, "interrupted": False, "stopped": None})
    follower.look()
    assert "no slice was built" in follower.lines(6.0)[2]


def test_a_place_without_a_corpus_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no corpus"):
        Follower(str(tmp_path))
