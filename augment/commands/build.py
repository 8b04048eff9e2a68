"""`rephase plan`, `build` and `status`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import Any

from rephase.builder.options import ARGUMENTS, BuildOptions, Group, flag
from rephase.commands.result import CommandResult, Commands, add_command, add_json, argument, indent
from rephase.diffusion.phases import PHASES
from rephase.errors import RequestError
from rephase.scanner.arrays import ARRAYS
from rephase.text import parse_names

_TITLES: dict[Group, str] = {
    "phase": "phase", "scanner": "scanner", "source": "source data", "execution": "execution", "run": "this run",
}  # fmt: skip


def register(commands: Commands) -> None:
    """Add the commands of a build."""
    plan = add_command(
        commands,
        "plan",
        plan_build,
        "dry run of a build: sizes, memory, time",
        "Report what a build with the same arguments would do: volumes, slices, bytes on disk, memory, time.\n"
        "Sizes come from the manifest, else from at most 256 headers; the time is measured on a few slices.\n"
        "No worker is started and nothing is written.",
        "rephase plan brain.csv brain.zarr\nrephase plan brain.csv brain.zarr --phase smooth --json",
    )
    _add_build_arguments(plan)
    _add_config(plan)
    add_options(plan, ("phase", "scanner", "source", "execution"))
    add_json(plan)
    build = add_command(
        commands,
        "build",
        run_build,
        "build a corpus, or resume a build",
        "Compute the k-space of every volume of a manifest and commit it to a corpus, volume by volume. Run the same\n"
        "command again to resume after an interruption: committed volumes are skipped. A volume that fails does not\n"
        "stop the others; it is listed at the end with its reason.\n\n"
        "Exit status: 0 all done; 1 some volumes failed; 2 usage error, nothing was built; 130 interrupted.",
        "rephase build brain.csv brain.zarr\n"
        "rephase build brain.csv brain.zarr --phase smooth --workers 4\n"
        "rephase build brain.csv brain.zarr --phase zero,smooth,field     # brain-zero.zarr, brain-smooth.zarr, ...\n"
        "rephase build brain.csv brain.zarr --cluster tls://10.0.0.1:8786 --workers 8\n"
        "rephase build brain.csv brain.zarr --retry-failed\n"
        "rephase build brain.csv again.zarr --config brain.zarr.run/build.toml",
    )
    _add_build_arguments(build)
    _add_config(build)
    add_options(build, ("phase", "scanner", "source", "execution", "run"))
    add_json(build)
    status = add_command(
        commands,
        "status",
        show_status,
        "show the progress of a corpus",
        "Show how many volumes are committed, what the latest run did, and which volumes failed and why. Safe to\n"
        "use during a build.",
        "rephase status brain.zarr\nrephase status brain.zarr --watch\nrephase status brain.zarr --json",
    )
    status.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    status.add_argument("--watch", action="store_true", help="refresh until the run ends; Ctrl-C stops watching only")
    add_json(status)


def _add_build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="M.csv", help="the manifest")
    parser.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus, such as brain.zarr")


def add_options(
    parser: argparse.ArgumentParser, groups: Iterable[Group], omit: Container[str] = (), given_only: bool = False
) -> None:
    """Add the build options of some groups, except those to omit; with `given_only`, without their defaults."""
    phases = indent("\n".join(f"{name:13} {phase.help}" for name, phase in PHASES.items()))
    coils = indent("\n".join(f"{f'{name}N':13} {array.help}" for name, array in ARRAYS.items()))
    coils += indent(
        "\nN             the one for the volume's anatomy\nbank:FILE     arrays measured by 'coils estimate'"
    )
    for group in groups:
        values = {"phase": f"values of --phase:\n{phases}", "scanner": f"values of --coils:\n{coils}"}
        section = parser.add_argument_group(_TITLES[group], values.get(group))
        for name, one in ARGUMENTS.items():
            if one.group != group or name in omit:
                continue
            default = argparse.SUPPRESS if given_only else getattr(BuildOptions, name)
            several = name == "phase"  # separated by commas: a corpus each
            if one.metavar is None:
                section.add_argument(flag(name), action="store_true", default=default, help=one.help)
            else:
                section.add_argument(
                    flag(name),
                    default=default,
                    type=argument(parse_phases if several else one.parse),
                    metavar=one.metavar,
                    choices=None if several else one.choices or None,
                    help=one.help,
                )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file of options by their long names, such as seed = 1; those of the command line go before it. A "
        "build writes what it used to CORPUS.run/build.toml",
    )


def build_options(arguments: argparse.Namespace) -> BuildOptions:
    """Return the build options from the parsed arguments, those of the first phase, and `--config`."""
    values, phases = _option_values(arguments)
    return BuildOptions.from_values({**values, "phase": phases[0] if phases else None})


def _option_values(arguments: argparse.Namespace) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the values of the options, those of `--config` below those of the command line, and the phases."""
    config = getattr(arguments, "config", None)
    names: Iterable[str] = ARGUMENTS
    if config is not None:
        parser = argparse.ArgumentParser(add_help=False)
        add_options(parser, _TITLES, given_only=True)
        names = vars(parser.parse_known_args(arguments.argv)[0])
    values = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if config is not None:
        from rephase.builder.option_files import read_options

        values = {**read_options(config), **values}
    phases = values.pop("phase", None) or ()
    if isinstance(phases, tuple):
        return values, phases
    try:  # of the file
        return values, parse_phases(",".join(phases) if isinstance(phases, list) else phases)
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(f"{config}: phase: {error}") from None


def plan_build(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase plan`."""
    from tqdm import tqdm

    from rephase.builder.plan import make_plan
    from rephase.manifests.parse import read_manifest

    options = _several_options(arguments) or {arguments.corpus: build_options(arguments)}
    manifest = read_manifest(arguments.manifest, next(iter(options.values())).read_columns)
    with tqdm(desc="reading headers", unit="header", delay=1, disable=not sys.stderr.isatty()) as bar:
        plans = [make_plan(manifest, root, one, lambda: bar.update() and None) for root, one in options.items()]
    lines = [line for plan in plans for line in (*plan.lines(), "")][:-1]
    return CommandResult(0, lines, plans[0].to_json() if len(plans) == 1 else [plan.to_json() for plan in plans])


def run_build(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase build`."""
    from rephase.builder.run import build
    from rephase.manifests.parse import read_manifest

    if _several_options(arguments):
        return _build_several(arguments)
    options = build_options(arguments)
    manifest = read_manifest(arguments.manifest, options.read_columns)
    summary = build(manifest, arguments.corpus, options)
    lines = summary.lines()
    if summary.interrupted or summary.stopped:
        lines.append(f"to resume: {resume_command(arguments)}")
    return CommandResult(summary.exit_status, lines, summary.to_json())


def parse_phases(text: str) -> tuple[str, ...]:
    """Parse the names of one or more phases, separated by commas."""
    phases = parse_names(text)
    if unknown := [phase for phase in phases if phase not in PHASES]:
        raise ValueError(f"invalid choice: {unknown[0]!r} (choose from {', '.join(PHASES)})")
    if not phases or len(set(phases)) < len(phases):
        raise ValueError(f"found {text!r}; expected different phases")
    return phases


def _several_options(arguments: argparse.Namespace) -> dict[str, BuildOptions]:
    """Return the options of each corpus by its path; empty for a single phase."""
    values, phases = _option_values(arguments)
    if len(phases) < 2:
        return {}
    from rephase.builder.several import options_of, phase_roots

    options = BuildOptions.from_values(values)
    given = {name: getattr(options, name) for name in ("checkpoint", "steps", "replicas")}
    options = replace(options, checkpoint=None, steps=None, replicas=1)
    roots = phase_roots(arguments.corpus, phases)
    return {roots[phase]: options_of(options, phase, given) for phase in phases}


def _build_several(arguments: argparse.Namespace) -> CommandResult:
    from rephase.builder.several import build_phases
    from rephase.manifests.parse import read_manifest

    options = _several_options(arguments)
    manifest = read_manifest(arguments.manifest, next(iter(options.values())).read_columns)
    summaries = build_phases(manifest, options)
    lines = [line for summary in summaries for line in (*summary.lines(), "")][:-1]
    if any(summary.interrupted or summary.stopped for summary in summaries):
        lines.append(f"to resume: {resume_command(arguments)}")
    status = max(summary.exit_status for summary in summaries)
    return CommandResult(status, lines, [summary.to_json() for summary in summaries])


def resume_command(arguments: argparse.Namespace) -> str:
    """Return the command line that resumes this run."""
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
