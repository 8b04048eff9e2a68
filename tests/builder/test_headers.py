"""Sizes that a manifest does not state, read from headers in a child process."""

from __future__ import annotations

import math
import time
from pathlib import Path

from volumes import write_volumes

from rephase.builder.headers import HeaderSizes
from rephase.manifests.parse import read_manifest
from rephase.pipeline.task import task_list


def test_sizes_are_read_and_a_file_without_one_is_passed_over(tmp_path: Path) -> None:
    path = write_volumes(tmp_path, 3, shape=(4, 16, 12))
    header, *lines = path.read_text().splitlines()
    rows = [",".join(line.split(",")[:2]) for line in lines]
    path.write_text("\n".join([",".join(header.split(",")[:2]), *rows, "bad,missing.npy"]) + "\n")
    tasks = task_list(read_manifest(path), 2, False)
    assert all(math.isnan(pixels) for pixels in tasks.pixels) and len(tasks.pixels) == 8
    headers, found = HeaderSizes(tasks), {}
    try:
        deadline = time.monotonic() + 60
        while len(found) < 6 and time.monotonic() < deadline:
            found |= dict(headers.take())
            time.sleep(0.05)
    finally:
        headers.close()
    assert found == dict.fromkeys(range(6), 4 * 16 * 12)
