"""What TLS costs a local build: the same volumes with and without it, in turns.

`python -m tests.benchmarks.tls [--volumes N] [--rounds N]` prints seconds and CPU seconds of each, and their ratio.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from distributed import Security

from rephase.bench.phantom import write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.manifests.parse import read_manifest


def measure(manifest: Path, corpus: Path, phase: str) -> tuple[float, float]:
    """Seconds of a build from its first volume to its last, and CPU seconds of all its processes."""
    before = _cpu()
    options = BuildOptions(phase=phase, workers=2, dashboard_address="127.0.0.1:0")
    summary = build(read_manifest(manifest), str(corpus), options, say=lambda _: None, progress=False)
    assert summary.exit_status == 0, summary.lines()
    return summary.seconds, _cpu() - before


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=30)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--phase", default="diffusion")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    plain = (
        patch("rephase.cluster.local.run_security", lambda: Security(require_encryption=False)),
        patch.dict("rephase.cluster.local._ADDRESS", {"protocol": "tcp://"}),
    )
    seen: dict[str, list[tuple[float, float]]] = {"TLS": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_volumes(Path(folder), given.volumes, given.slices, given.size)
        for number in range(given.rounds):
            for name in ("TLS", "plain") if number % 2 else ("plain", "TLS"):
                corpus = Path(folder) / f"{name}{number}.zarr"
                if name == "plain":
                    with plain[0], plain[1]:
                        seen[name].append(measure(manifest, corpus, given.phase))
                else:
                    seen[name].append(measure(manifest, corpus, given.phase))
                time.sleep(0.1)
    for part, unit in enumerate(("s", "s of CPU time")):
        middle = {name: statistics.median(one[part] for one in values) for name, values in seen.items()}
        sys.stdout.write(
            f"{given.volumes} volumes of {given.slices} x {given.size}², {given.phase}: TLS {middle['TLS']:.2f}, plain "
            f"{middle['plain']:.2f} {unit}: {100 * (middle['TLS'] / middle['plain'] - 1):+.1f} %\n"
        )


if __name__ == "__main__":
    main()
