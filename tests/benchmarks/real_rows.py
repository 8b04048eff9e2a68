"""The command line of a benchmark over real volumes: the rows of a split of a manifest with phase."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rephase.evaluation.sessions import RealVolume, read_real
from rephase.manifests.parse import read_manifest


def given_volumes(description: str | None, split: str) -> Iterator[RealVolume]:
    """Yield the volumes that the command line names: a manifest, `--split` and `--max-slices` of each volume."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("--split", default=split, help="default: %(default)s")
    parser.add_argument("--max-slices", type=int, default=8, help="of each volume; default: %(default)s")
    given = parser.parse_args()
    for row in read_manifest(given.manifest):
        if row.split == given.split:
            yield read_real(row, given.max_slices)
