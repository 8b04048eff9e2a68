"""`rephase plan`, `build` and `status`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rephase.commands.result import CommandResult, Commands, add_command, add_json, count, names, size
from rephase.diffusion.phases import PHASES
from rephase.diffusion.shipped import find_checkpoint

if TYPE_CHECKING:
    from rephase.builder.options import BuildOptions


def register(commands: Commands) -> None:
    """Add the commands of a build."""
    plan = add_command(
        commands,
        "plan",
        plan_build,
        "say what a build would do",
        "Say what a build with the same arguments would do: volumes, slices, bytes on disk, memory per worker, time.\n"
        "Sizes come from the manifest, else from at most 256 headers; the time from trying out a few slices here.\n"
        "Nothing is started and nothing is written.",
        "rephase plan brain.csv brain.zarr\nrephase plan brain.csv brain.zarr --phase smooth --json",
    )
    _add_build_options(plan)
    build = add_command(
        commands,
        "build",
        run_build,
        "build a corpus, or carry on with it",
        "Make k-space of every volume of a manifest and commit it to a corpus, volume by volume. The same command\n"
        "again carries on after any interruption: what is committed is skipped. A volume that fails never stops the\n"
        "others; it is listed at the end with its reason.\n\n"
        "Exit status: 0 all done; 1 some volumes failed; 2 the request was wrong, nothing was built; 130 interrupted.",
        "rephase build brain.csv brain.zarr\n"
        "rephase build brain.csv brain.zarr --phase smooth --workers 4\n"
        "rephase build brain.csv brain.zarr --cluster tcp://10.0.0.1:8786 --workers 8\n"
        "rephase build brain.csv brain.zarr --retry-failed",
    )
    _add_build_options(build)
    _add_run_options(build)
    status = add_command(
        commands,
        "status",
        show_status,
        "say how far a corpus is",
        "Say what of a corpus is committed, what the last run did, and what failed and why. Works while it is built.",
        "rephase status brain.zarr\nrephase status brain.zarr --watch\nrephase status brain.zarr --json",
    )
    status.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    status.add_argument(
        "--watch", action="store_true", help="show it again and again until the run ends; Ctrl-C stops looking"
    )
    add_json(status)


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="M.csv", help="the manifest")
    parser.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus, such as brain.zarr")
    phase = parser.add_argument_group("phase")
    phase.add_argument(
        "--phase",
        choices=PHASES,
        metavar="NAME",
        help="where phase comes from (default: diffusion if weights are shipped or given, else smooth): "
        + "; ".join(f"{name}: {phase.help}" for name, phase in PHASES.items()),
    )
    phase.add_argument(
        "--checkpoint",
        type=find_checkpoint,
        metavar="C",
        help="weights of diffusion or regression: a file, or permissive or teacher, which ship too "
        "(default: those for the phase)",
    )
    phase.add_argument(
        "--steps",
        type=count,
        metavar="N",
        help="evaluations of the network a slice, with --phase diffusion (default: those the weights are meant for)",
    )
    phase.add_argument("--seed", type=int, default=0, metavar="S", help="another one gives other phase (default: 0)")
    phase.add_argument(
        "--replicas", type=count, default=1, metavar="N", help="volumes made of each row that does not say (default: 1)"
    )
    source = parser.add_argument_group("source")
    source.add_argument(
        "--negative",
        choices=("refuse", "clip"),
        default="refuse",
        metavar="RULE",
        help="refuse or clip negative magnitude down to -5 %% of the maximum (default: refuse)",
    )
    source.add_argument(
        "--keep-columns",
        type=names,
        default=(),
        metavar="A,B",
        help="manifest columns of your own that go on into the corpus (default: none)",
    )
    add_where(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="make volumes again that came from other bytes, rows or options"
    )
    add_json(parser)


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the work runs and with how much memory."""
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--cluster",
        default="local",
        metavar="SPEC",
        help="local, slurm:CONFIG.toml, ssh:HOST,HOST, or a running Dask scheduler: tcp://, tls://",
    )
    where.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="worker processes (default: one per GPU, else one per core); of a running scheduler, how many to wait for",
    )
    where.add_argument("--batch-size", type=count, metavar="N", help="slices given to the generator at once")
    where.add_argument("--memory-limit", type=size, metavar="SIZE", help="of each local worker, for example 8GB")
    where.add_argument(
        "--volume-limit", type=size, metavar="SIZE", help="refuse volumes whose float32 magnitude is larger"
    )
    where.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="of one volume; one that takes longer twice is given up (default: 30 minutes to read it, then 10 minutes "
        "and 5 s for every slice and evaluation)",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    run = add_run(parser)
    run.add_argument("--retry-failed", action="store_true", help="try the volumes again that failed in an earlier run")
    run.add_argument("--keep-open", action="store_true", help="keep the cluster and its dashboard after the build")
    run.add_argument(
        "--performance-report", type=Path, metavar="FILE", help="write Dask's own report of the run, an HTML file"
    )


def add_run(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of one run that builds volumes."""
    run = parser.add_argument_group("this run")
    run.add_argument(
        "--allow-mixed-devices", action="store_true", help="let workers differ in device, instruction set or torch"
    )
    run.add_argument("--break-lease", action="store_true", help="take over from a builder without a sign of life")
    run.add_argument(
        "--dashboard-address",
        default="127.0.0.1:8787",
        metavar="HOST:PORT",
        help="of the dashboard; another port is taken where this one is in use (default: 127.0.0.1:8787)",
    )
    return run


def _options(arguments: argparse.Namespace, **more: object) -> BuildOptions:
    from rephase.builder.options import BuildOptions

    shared = (
        "phase", "checkpoint", "steps", "seed", "replicas", "batch_size", "negative", "keep_columns", "cluster",
        "memory_limit", "volume_limit", "time_limit", "overwrite",
    )  # fmt: skip
    values = {name: getattr(arguments, name) for name in shared} | more
    return BuildOptions(num_workers=arguments.workers, **values)


def plan_build(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase plan`."""
    from tqdm import tqdm

    from rephase.builder.plan import make_plan
    from rephase.manifests.parse import read_manifest

    options = _options(arguments)
    manifest = read_manifest(arguments.manifest, arguments.keep_columns)
    with tqdm(desc="reading headers", unit="header", delay=1, disable=not sys.stderr.isatty()) as bar:
        plan = make_plan(manifest, arguments.corpus, options, lambda: bar.update() and None)
    return CommandResult(0, plan.lines(), plan.to_json())


def run_build(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase build`."""
    from rephase.builder.resolve import default_phase
    from rephase.builder.run import build
    from rephase.manifests.parse import read_manifest

    run_options = (
        "retry_failed",
        "allow_mixed_devices",
        "break_lease",
        "keep_open",
        "dashboard_address",
        "performance_report",
    )
    options = _options(arguments, **{name: getattr(arguments, name) for name in run_options})
    manifest = read_manifest(arguments.manifest, arguments.keep_columns)
    if options.phase is None and options.checkpoint is None and default_phase() == "smooth":
        sys.stderr.write("phase: smooth, because no weights are shipped with this installation\n")
    summary = build(manifest, arguments.corpus, options)
    lines = summary.lines()
    if summary.interrupted or summary.stopped:
        lines.append(f"to carry on: {resume_command(arguments)}")
    return CommandResult(summary.exit_status, lines, summary.to_json())


def resume_command(arguments: argparse.Namespace) -> str:
    """Give the command that carries on with this build."""
    return shlex.join(["rephase", *arguments.argv])


def show_status(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase status`."""
    if arguments.watch:
        from rephase.builder.status import draw, follow

        follow(arguments.corpus, draw)
        return CommandResult(0)
    from rephase.builder.status import read_status

    status = read_status(arguments.corpus)
    return CommandResult(0, status.lines(), status.to_json())
