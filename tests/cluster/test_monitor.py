"""The page, the counters and the report while a real build runs."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import urllib.error
import urllib.request

import dask
import pytest
from chromium import find_chromium, look
from paths import PROJECT, TESTS

from rephase.bench.phantom import write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.cluster.monitor import Build, BuildMonitor
from rephase.cluster.page import build_cells, builds_html, failures_html
from rephase.counters import Counters
from rephase.manifests.parse import read_manifest
from rephase.progress import InWork, Progress

MIDDLE = re.compile(r"c\.zarr\s+7\s+5\s+0\s+1\s+1\s.*waits: reading\s+building", re.S)
"""Of seven volumes five are built, one failed and one is left."""

METRIC = re.compile(r"rephase_\w+")
REPORT = {"corpus": "c<b>.zarr", "last_failures": [], "ended": ""}
PROGRESS = Progress(0.0, num_volumes=10, built=4, failed=1, num_in_work=1, in_work=(InWork("v<5>", 3, 9, 81),))


def test_counters_add_up_over_threads():
    counters = Counters()

    def work():
        for _ in range(500):
            with counters.working("build", "v"), counters.waiting():
                counters.count_sampled(2, 0.5)
            counters.count_volume("built", 3, {"sample": 1.0}, None)
        counters.count_volume("failed", 9, {"read": 1.0}, "missing")

    threads = [threading.Thread(target=work) for _ in range(4)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    now = json.loads(json.dumps(counters.snapshot()))
    assert (now["slices"], now["sampled"], now["device_s"]) == (6000, 4000, 1000.0)
    assert (now["in_work"], now["waiting"]) == ([], 0)
    assert now["volumes"] == {"built": 2000, "failed": 4} and now["failures"] == {"missing": 4}
    assert now["seconds"] == {"sample": 2000.0, "read": 4.0}


def test_the_monitor_keeps_a_bounded_number_of_builds():
    monitor = BuildMonitor()
    for number in range(100):
        monitor.update(str(number), REPORT, PROGRESS.to_json())
    assert len(monitor.builds) == 20 and "99" in monitor.builds


def test_reports_of_a_build_are_shown_and_escaped():
    failing = {**REPORT, "last_failures": [("v1", "missing", "v1 (<script>): gone")]}
    builds = {"one": Build(failing, PROGRESS)}
    cells = build_cells(builds["one"])
    assert cells[:6] == ("c<b>.zarr", "10", "4", "0", "1", "5") and cells[-2:] == ("v<5>: 3 of 9 slices", "building")
    assert "c&lt;b&gt;.zarr" in builds_html(builds) and "<b>.zarr" not in builds_html(builds)
    assert "missing: v1 (&lt;script&gt;): gone" in failures_html(builds)


def _identity(seen):
    """Dask's own answer fails while a heartbeat brings timings that JSON has no keys for; the next one has none."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return json.loads(_get(f"{seen['base']}/json/identity.json", seen["token"]))
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def _get(url, token):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read().decode()


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """A build that waits in mid-run until a browser has looked; what the pages said then, and when all was done."""
    folder = tmp_path_factory.mktemp("watched")
    manifest = write_volumes(folder, 6, 2, 16)
    (folder / "v0005.npy").rename(folder / "waits.npy")
    manifest.write_text(manifest.read_text().replace("v0005", "waits") + "bad,missing.npy,2,16,16\n")
    seen: dict = {}
    watchers: list[threading.Thread] = []

    def say(line):
        if line.startswith("dashboard: "):
            seen["base"], seen["token"] = re.search(r"(http://[^/]+)/status\?token=(.+)", line).groups()
            watchers.append(threading.Thread(target=_look_during, args=(seen, folder)))
            watchers[0].start()

    options = BuildOptions(phase="smooth", workers=2, dashboard_address="127.0.0.1:0")
    logging.getLogger("bokeh").setLevel(logging.ERROR)
    preload = {"distributed.worker.preload": [str(TESTS / "faulty_reader.py")]}
    with dask.config.set(preload), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTY_READER_GO", str(folder / "go"))
        patch.setattr("rephase.builder.run.forget_workers", lambda *_: _look(seen, folder))  # all done, still open
        try:
            build(read_manifest(manifest), str(folder / "c.zarr"), options, say=say, progress=False)
        finally:
            (folder / "go").touch()
            watchers[0].join()
    return seen


def _look_during(seen, folder):
    """Look at the page while one volume is still being read, and then let its reader go on."""
    try:
        if find_chromium() is not None:
            during = folder / "during"
            during.mkdir()
            seen["during"] = look(
                f"{seen['base']}/rephase?token={seen['token']}", during, _shows_the_middle, folder / "during.png"
            )
    finally:
        (folder / "go").touch()


def _shows_the_middle(now):
    return MIDDLE.search(now["text"]) is not None and now["canvases"] >= 2


def _look(seen, folder):
    address, token = f"{seen['base']}/rephase", seen["token"]
    seen["page"] = _get(address, token)
    ports = [worker["services"]["dashboard"] for worker in _identity(seen)["workers"].values()]
    if find_chromium() is not None:
        seen["browser"] = look(
            f"{address}?token={token}", folder, lambda now: "6" in now["text"] and now["canvases"] >= 2
        )
    seen["totals"] = _get(f"{seen['base']}/metrics", token)
    seen["metrics"] = [_get(f"http://127.0.0.1:{port}/metrics", token) for port in ports]


def test_every_worker_counts_on_its_own_metrics_page(looked_at):
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

    def total(name):
        return sum(
            float(value) for page in looked_at["metrics"] for value in re.findall(rf"^{name} (\S+)$", page, re.M)
        )

    assert total("rephase_slices_total") == 12
    assert total("rephase_sampled_slices_total") == 12
    assert total(r'rephase_volumes_total\{status="built"\}') == 6
    assert total(r'rephase_failures_total\{reason="missing"\}') == 1
    assert total(r'rephase_stage_seconds_total\{stage="commit"\}') > 0
    assert total("rephase_volumes_in_work") == 0


def test_the_scheduler_publishes_builds_and_the_sums_of_workers(looked_at):
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    page = looked_at["totals"]
    assert 'rephase_build_volumes{corpus="c.zarr",status="built"} 6.0' in page
    assert 'rephase_build_volumes{corpus="c.zarr",status="left"} 0.0' in page
    assert 'rephase_build_work_ratio{corpus="c.zarr"} 1.0' in page
    assert 'rephase_build_running{corpus="c.zarr"} 0.0' in page
    assert "rephase_cluster_slices_total 12.0" in page and "rephase_cluster_workers 2.0" in page


def test_the_dashboard_of_grafana_asks_for_metrics_that_exist(looked_at):
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    board = json.loads((PROJECT / "cluster" / "grafana.json").read_text())
    asked = {name for panel in board["panels"] for one in panel["targets"] for name in METRIC.findall(one["expr"])}
    assert len(asked) >= 10
    assert asked <= set(re.findall(r"^# TYPE (\S+)", looked_at["totals"], re.M))


def test_the_dashboard_has_the_page(looked_at):
    assert "<title>rephase</title>" in looked_at["page"]


def test_a_browser_shows_what_the_build_does(looked_at):
    if "during" not in looked_at:
        pytest.skip("no chromium here")
    assert _shows_the_middle(looked_at["during"]), looked_at["during"]["text"]
    assert "missing: " in looked_at["during"]["text"]


def test_a_browser_shows_what_the_build_did(looked_at):
    if "browser" not in looked_at:
        pytest.skip("no chromium here")
    text = looked_at["browser"]["text"]
    assert looked_at["browser"]["canvases"] >= 2, "no figure was drawn"
    assert "c.zarr" in text and "building" not in text and "ended" in text
    assert re.search(r"c\.zarr\s+7\s+6\s+0\s+1\s+0\s+100 %", text), text
    assert "bad" in text and "missing: " in text
    assert text.count("127.0.0.1:") >= 2, "the workers are not listed"
