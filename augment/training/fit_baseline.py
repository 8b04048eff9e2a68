"""`rephase fit-baseline`: fit the smooth baseline to the real phase of a manifest."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from rephase.diffusion.physics.low_order import FitVolume, fit_model, write_model
from rephase.errors import RequestError, VolumeError
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.manifests.splits import rows_of_split
from rephase.readers.registry import read_with_phase


def fit_smooth(manifest: Path, split: str | None, output: Path) -> int:
    """Fit the smooth baseline, write it, and return the exit status.

    Raises
    ------
    RequestError
        If no row has real phase, or the file cannot be written.
    """
    rows = rows_of_split(read_manifest(manifest), split)
    volumes, licences, failed = [], Counter[str](), 0
    for row in tqdm(rows, desc="reading", unit="volume", disable=None):
        try:
            volumes.append(_read(row))
            licences[row.licence or "not stated"] += 1
        except VolumeError as error:
            failed += 1
            print(f"skipped: {error}", file=sys.stderr)  # noqa: T201
    data = {
        "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "split": split,
        "volumes": len(volumes),
        "sessions": len({one.session for one in volumes}),
        "licences": dict(licences),
    }
    try:
        write_model(fit_model(volumes, data), output)
    except ValueError as error:
        raise RequestError(f"{manifest}: {error}; expected rows with real phase") from None
    except OSError as error:
        raise RequestError(f"{output}: {error.strerror}; choose another -o") from error
    return 1 if failed else 0


def _read(row: ManifestRow) -> FitVolume:
    volume, phase = read_with_phase(row)
    image = torch.polar(torch.from_numpy(abs(volume.magnitude)), torch.from_numpy(phase))
    return FitVolume(image, volume.spacing_mm, volume.te_ms, row.subject_id or row.volume_id)
