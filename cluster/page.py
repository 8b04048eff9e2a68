"""The page `/rephase` of the Dask dashboard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, DataTable, Div, NumberFormatter, TableColumn
from bokeh.palettes import Category10
from bokeh.plotting import figure
from bokeh.server.tornado import BokehTornado
from distributed.scheduler import Scheduler
from tornado.ioloop import IOLoop

from rephase.pages import render_macro
from rephase.progress import InWork

if TYPE_CHECKING:
    from rephase.cluster.monitor import Build, BuildMonitor

ROUTE = "/rephase"
_REFRESH_MS = 1000
_STAGES = ("read", "prepare", "waiting", "sample", "kspace", "commit")
_MOST_BARS = 24


def add_page(scheduler: Scheduler, monitor: BuildMonitor) -> None:
    """Add the page to a scheduler's dashboard; its links and its websocket follow the scheduler's settings."""
    import dask
    from bokeh.server.util import create_hosts_allowlist

    settings = dict(dask.config.get("distributed.scheduler.dashboard.bokeh-application"))
    origins = create_hosts_allowlist(settings.pop("allow_websocket_origin", ["*"]), scheduler.http_server.port)
    application = Application(FunctionHandler(lambda document: make_document(document, monitor)))
    bokeh_app = BokehTornado(
        {ROUTE: application}, use_index=False, extra_websocket_origins=origins, absolute_url="", **settings
    )
    scheduler.http_application.add_application(bokeh_app)
    bokeh_app.initialize(IOLoop.current())
    bokeh_app.start()


def make_document(document: Document, monitor: BuildMonitor) -> None:
    """Create the page for one browser, and refresh it while the browser shows it."""
    document.title = "rephase"
    page = _Page(monitor)
    document.add_root(page.layout)
    document.add_periodic_callback(page.refresh, _REFRESH_MS)
    page.refresh()


class _Page:
    """The page in one browser."""

    def __init__(self, monitor: BuildMonitor) -> None:
        self._monitor = monitor
        self._builds = Div(sizing_mode="stretch_width")
        self._failures = Div(sizing_mode="stretch_width")
        self._rate = ColumnDataSource({"time": [], "rate": []})
        self._stages = ColumnDataSource({"name": [], **{stage: [] for stage in _STAGES}})
        self._workers = ColumnDataSource({name: [] for name, _, _ in _COLUMNS})
        self._device: dict[str, tuple[float, float, float]] = {}
        self._bars = _stage_figure(self._stages)
        self.layout = column(
            Div(text='<b style="font-size:150%">rephase</b> &nbsp; <a href="status">Dask: status</a>'),
            self._builds,
            row(_rate_figure(self._rate), self._bars, sizing_mode="stretch_width"),
            _worker_table(self._workers),
            self._failures,
            sizing_mode="stretch_width",
        )

    def refresh(self) -> None:
        """Update everything on the page."""
        workers = self._monitor.workers()
        self._builds.text = builds_html(self._monitor.builds)
        self._failures.text = failures_html(self._monitor.builds)
        moments = [1000 * moment for moment, _ in self._monitor.history]
        self._rate.data = {"time": moments, "rate": [rate for _, rate in self._monitor.history]}
        self._show_stages(workers)
        self._workers.data = self._worker_rows(workers)

    def _show_stages(self, workers: Mapping[str, dict[str, Any]]) -> None:
        shown = dict(list(workers.items())[:_MOST_BARS])
        names = [worker["name"] for worker in shown.values()]
        seconds = [worker["seconds"] for worker in shown.values()]
        whole = [sum(one.get(stage, 0.0) for stage in _STAGES) or 1.0 for one in seconds]
        parts = {
            stage: [100 * one.get(stage, 0.0) / total for one, total in zip(seconds, whole, strict=True)]
            for stage in _STAGES
        }
        if self._bars.y_range.factors != names:
            self._bars.y_range.factors = names
        self._stages.data = {"name": names, **parts}

    def _worker_rows(self, workers: Mapping[str, dict[str, Any]]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {name: [] for name, _, _ in _COLUMNS}
        for address, worker in workers.items():
            values = {
                "name": worker["name"],
                "address": address,
                "slices": worker["slices"],
                "volumes": worker["volumes"].get("built", 0),
                "failed": worker["volumes"].get("failed", 0),
                "in_work": ", ".join(str(InWork.of(one)) for one in worker["in_work"]),
                "waiting": worker["waiting"],
                "busy": self._busy(address, worker["device_s"]),
                "memory": worker["memory"] / 1e6,
            }
            for name, value in values.items():
                rows[name].append(value)
        return rows

    def _busy(self, address: str, device_s: float) -> str:
        """Format the share of time that the GPU was busy since its counter last changed."""
        now = time.monotonic()
        before_s, moment, share = self._device.get(address, (device_s, now, 0.0))
        if device_s > before_s and now > moment:
            share = min((device_s - before_s) / (now - moment), 1.0)
            before_s, moment = device_s, now
        self._device[address] = (before_s, moment, share)
        return f"{100 * share:.0f} %" if device_s else "no GPU"


_COLUMNS = (
    ("name", "worker", None),
    ("address", "address", None),
    ("volumes", "volumes built", "0,0"),
    ("slices", "slices", "0,0"),
    ("failed", "failed", "0,0"),
    ("in_work", "in work", None),
    ("waiting", "waiting for the sampler", "0"),
    ("busy", "GPU busy", None),
    ("memory", "memory (MB)", "0,0"),
)


def _rate_figure(source: ColumnDataSource) -> Any:  # noqa: ANN401
    plot = figure(
        title="slices sampled per second, over half a minute",
        x_axis_type="datetime",
        height=220,
        sizing_mode="stretch_width",
        tools="",
    )
    plot.line("time", "rate", source=source, line_width=2)
    plot.y_range.start = 0
    plot.toolbar.logo = None
    return plot


def _stage_figure(source: ColumnDataSource) -> Any:  # noqa: ANN401
    plot = figure(
        title="time per stage (% of each worker's)", y_range=[], height=220, sizing_mode="stretch_width", tools=""
    )
    plot.hbar_stack(
        list(_STAGES), y="name", height=0.8, source=source, color=Category10[len(_STAGES)], legend_label=list(_STAGES)
    )
    plot.add_layout(plot.legend[0], "right")
    plot.toolbar.logo = None
    return plot


def _worker_table(source: ColumnDataSource) -> DataTable:
    columns = [
        TableColumn(field=name, title=title, **({"formatter": NumberFormatter(format=shape)} if shape else {}))
        for name, title, shape in _COLUMNS
    ]
    return DataTable(source=source, columns=columns, height=200, sizing_mode="stretch_width", index_position=None)


def builds_html(builds: Mapping[str, Build]) -> str:
    """Return a table with a row per build, the newest first."""
    return render_macro("dashboard.html", "builds", [build_cells(build) for build in reversed(list(builds.values()))])


def build_cells(build: Build) -> tuple[str, ...]:
    """Format a build: corpus, numbers of volumes, share of the work, speed, what is in work, state."""
    progress, ended = build.progress, build.report["ended"]
    numbers = (progress.num_volumes, progress.built, progress.skipped, progress.failed, progress.num_left)
    speed, working = ("-", "-") if ended else (progress.speed(), progress.working_on())
    share = f"{100 * progress.share:.0f} %"
    return (build.report["corpus"], *map(str, numbers), share, speed, working, ended or "building")


def failures_html(builds: Mapping[str, Build]) -> str:
    """Return a list of the last failures of all builds with their reasons."""
    failures = [one for build in reversed(list(builds.values())) for one in build.report["last_failures"]]
    return render_macro("dashboard.html", "failures", failures)
