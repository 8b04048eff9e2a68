"""The command line of the benchmarks: one option per parameter; the result is printed as text."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rephase.bench.measure import BenchResult

Targets = Callable[[BenchResult], Mapping[str, bool]]


def run_benchmark(bench: Callable[..., BenchResult], targets: Targets = lambda _: {}) -> int:
    """Run a benchmark with the options of the command line and print its result.

    Parameters
    ----------
    bench
        Every parameter becomes an option with the parameter's default; a tuple takes several whole numbers.
    targets
        The verdicts on a result: a line of text, and whether the target is met.

    Returns
    -------
    status
        0 if every target is met, else 1.
    """
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(bench), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(bench).parameters.items():
        default = parameter.default
        kind = Path if default is None else type(default[0] if isinstance(default, tuple) else default)
        several = "+" if isinstance(default, tuple) else None
        shown = "none" if default is None else default
        flag = "--" + name.removeprefix("num_").replace("_", "-")
        parser.add_argument(flag, dest=name, type=kind, nargs=several, default=default, help=f"(default: {shown})")
    result = bench(**vars(parser.parse_args()))
    verdicts = targets(result)
    lines = [*result.lines(), *([""] if verdicts else [])]
    lines += [f"{text}: {'met' if met else 'MISSED'}" for text, met in verdicts.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(not all(verdicts.values()))
