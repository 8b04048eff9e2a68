"""The long run: `python -m tests.fuzz --cases 10000 --seed 1`. Exit status 1 if a case is a fault."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and write counts and faults as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/fuzz.json"))
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tqdm import tqdm

    from fuzz.pool import run_cases

    start = time.monotonic()
    numbers = range(options.first, options.first + options.cases)
    with tqdm(total=len(numbers), unit="case", disable=None) as bar:
        report = gather(options.seed, run_cases(options.seed, numbers, options.workers, bar.update))
    report["seconds"] = round(time.monotonic() - start, 1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for target, outcomes in report["outcomes"].items():
        sys.stdout.write(f"{target:<11} {', '.join(f'{count} {word}' for word, count in outcomes.items())}\n")
    sys.stdout.write(
        f"{report['cases']} cases, {len(report['faults'])} faults, at most {report['most_seconds']} s and "
        f"{report['most_mib']} MiB per case; {options.output}\n"
    )
    for fault in report["faults"][:20]:
        sys.stdout.write(f"case {fault['case']} ({fault['target']}, {fault['from']}): {fault['fault']}\n")
    return int(bool(report["faults"]))


def gather(seed: int, results: Any) -> dict[str, Any]:
    """Count outcomes by target, and keep what is needed to reproduce a fault."""
    from fuzz.cases import make_case

    outcomes: dict[str, Counter[str]] = {}
    report: dict[str, Any] = {"seed": seed, "cases": 0, "faults": [], "most_seconds": 0.0, "most_mib": 0}
    for result in results:
        case = make_case(seed, result.number)
        report["cases"] += 1
        outcomes.setdefault(case.seed.target, Counter())[result.verdict.outcome] += 1
        report["most_seconds"] = max(report["most_seconds"], round(result.seconds, 2))
        report["most_mib"] = max(report["most_mib"], result.peak_bytes >> 20)
        if result.verdict.fault is not None:
            report["faults"].append(
                case.describe() | {"outcome": result.verdict.outcome, "fault": result.verdict.fault}
            )
    report["outcomes"] = {target: dict(sorted(found.items())) for target, found in sorted(outcomes.items())}
    return report


if __name__ == "__main__":
    sys.exit(main())
