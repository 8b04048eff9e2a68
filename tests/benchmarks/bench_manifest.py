"""Time and memory of reading a large manifest: `python tests/benchmarks/bench_manifest.py`."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rephase.manifests.parse import read_manifest

_HEADER = "volume_id,path,format,subject_id,split,contrast,field_t,te_ms,series,num_slices,height,width,licence,site"


def write_example(path: Path, num_rows: int) -> None:
    """Write a manifest like that of a large archive."""
    with path.open("w", encoding="utf-8") as file:
        file.write(_HEADER + "\n")
        for i in range(num_rows):
            folder = f"archive/site-{i % 40:02d}/subject-{i // 8:06d}/session-{i % 3}/series-{i % 8}"
            words = f"{('train', 'val', 'test')[i % 3]},{('T1', 'T2', 'FLAIR')[i % 3]},3.0,{i % 80}.5"
            sizes = f"1.2.840.113619.2.{i}.{i * 7},{20 + i % 100},256,256"
            subject = f"s{i // 8:08x}deadbeef"
            file.write(f"v{i:08x}c0ffee42,{folder},dicom,{subject},{words},{sizes},CC-BY-4.0,site {i % 40}\n")


def main() -> None:
    """Print seconds and peak memory; exit status 1 if they exceed the documented limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)  # given to the measured process
    arguments = parser.parse_args()
    if arguments.manifest is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.csv"
            write_example(path, arguments.rows)
            # A process of its own: the peak of this one would hold the writer's memory too.
            command = [sys.executable, __file__, "--rows", str(arguments.rows), "--manifest", str(path)]
            raise SystemExit(subprocess.run(command, check=False).returncode)
    start = time.perf_counter()
    manifest = read_manifest(arguments.manifest)
    seconds = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"rows {len(manifest)}: {seconds:.1f} s, peak {peak_mb:.0f} MB (limits at 1,000,000: 20 s, 500 MB)\n"
    )
    raise SystemExit(len(manifest) == 1_000_000 and (seconds > 20 or peak_mb > 500))


if __name__ == "__main__":
    main()
