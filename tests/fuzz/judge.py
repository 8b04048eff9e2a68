"""Judge how the code handles one case: refused with a reason, read correctly, or a fault."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_tensors

from fuzz.oracle import difference
from fuzz.seeds import Seed
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.diffusion.checkpoint import CheckpointError, load_checkpoint
from rephase.errors import RequestError, VolumeError
from rephase.formats import READERS
from rephase.manifests.parse import ManifestError, read_manifest
from rephase.manifests.record import ManifestRow
from rephase.pipeline.magnitude import prepare_magnitude
from rephase.readers.registry import describe_row, hash_source, probe, read_volume

LIMIT_BYTES = 32 << 20
"""Memory limit for one file, passed to the readers."""
_VOLUME_ID = re.compile(r"(?!__|\.)[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class Verdict:
    """How a case ended; `fault` describes an error of the code, None for none."""

    outcome: str
    fault: str | None = None


def judge(seed: Seed, folder: Path) -> Verdict:
    """Run the code on the files in a folder: those of a seed, changed or not."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            if seed.target in READERS:
                return _volume(seed, folder)
            return {"manifest": _manifest, "checkpoint": _checkpoint, "store": _store}[seed.target](seed, folder)
        except Exception as error:
            return Verdict("exception", f"{type(error).__name__}: {str(error)[:300]}")


def _volume(seed: Seed, folder: Path) -> Verdict:
    columns = dict(seed.row)
    if "kspace" in columns:
        columns["kspace"] = str(folder / columns["kspace"])
    row = ManifestRow(line=2, volume_id="v", path=str(folder / seed.path), format=seed.target, **columns)
    place = Path(row.path)
    probe([place] if place.is_file() else sorted(place.iterdir()))
    try:
        described = describe_row(row)
    except VolumeError as error:
        described = None
        unclear = _unclear(error)
    else:
        unclear = None
    try:
        volume = read_volume(row, LIMIT_BYTES)
        prepared = prepare_magnitude(volume.magnitude, "clip")
    except VolumeError as error:
        return Verdict(f"refused: {error.reason}", unclear or _unclear(error))
    if described != volume.magnitude.shape:
        return Verdict("read", f"is {volume.magnitude.shape}, but was described as {described}")
    if hash_source(row) != volume.source_sha256:
        return Verdict("read", "has another digest than hash_source gives")
    if not np.isfinite(prepared.stored).all() or not all(math.isfinite(value) for value in volume.spacing_mm):
        return Verdict("read", "is not finite")
    try:
        return Verdict("read", difference(seed.target, row, volume))
    except Exception as error:
        return Verdict("read", f"was read, where a plain reading fails: {type(error).__name__}: {str(error)[:200]}")


def _unclear(error: Exception) -> str | None:
    text = str(error)
    if "\n" in text or len(text) > 1200 or not text.isprintable():
        return f"not one line of text: {text[:200]!r}"
    return None


def _manifest(seed: Seed, folder: Path) -> Verdict:
    path = folder / seed.path
    try:
        rows = list(read_manifest(path))
    except ManifestError as error:
        where = re.compile(rf"{re.escape(str(path))}:\d+: ").match
        wrong = [fault for fault in error.problems if not fault.isprintable() or not where(fault)]
        return Verdict("refused", f"not a fault's line: {wrong[0][:200]!r}" if wrong else None)
    text = path.read_bytes().decode("utf-8-sig")
    plain = [record for record in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True) if record]
    header = [name.strip() for name in plain[0]]
    told = [(record[header.index("volume_id")], record[header.index("path")]) for record in plain[1:]]
    found = [(row.volume_id, row.path) for row in rows]
    same = len(told) == len(found) and all(map(_same_row, told, found))
    if not same:
        return Verdict("read", "rows are not those of a plain reading")
    ids = [row.volume_id for row in rows]
    if len({name.casefold() for name in ids}) < len(ids) or not all(_VOLUME_ID.fullmatch(name) for name in ids):
        return Verdict("read", "a volume_id that may not be")
    return Verdict("read")


def _same_row(told: tuple[str, str], found: tuple[str, str]) -> bool:
    last = told[1].rsplit("/", 1)[-1].rstrip(".")
    return told[0] == found[0] and (found[1] == told[1] or found[1].endswith(last))


def _checkpoint(seed: Seed, folder: Path) -> Verdict:
    path = folder / seed.path
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        return Verdict("refused", _unclear(error) if "\n" in str(error) else None)
    stored = load_tensors(path.read_bytes())
    for name, value in checkpoint.network.state_dict().items():
        if not np.array_equal(value.numpy(), stored[name].astype(np.float32)) or not torch.isfinite(value).all():
            return Verdict("read", f"{name} is not what the file holds")
    return Verdict("read")


def _store(seed: Seed, folder: Path) -> Verdict:
    root = folder / seed.path
    changed = sorted(name for name, data in seed.files.items() if not _holds(folder / name, data))
    given, num_refused = loader_slices(root)
    fault = None
    if given is not None:
        whole = _whole_slices(seed, folder / "sound")
        wrong = sum(item not in whole for item in given)
        missing = len(whole) - len(given) - num_refused
        if wrong or missing > 0:
            fault = f"the loader gave {wrong} wrong slices, and {missing} too few"
    try:
        ok = verify_corpus(root, workers=1).ok
    except RequestError:
        ok = False
    if ok and changed:
        fault = fault or f"verify did not report {changed[0]}"
    return Verdict("sound" if ok else "found", fault)


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def loader_slices(root: Path) -> tuple[list[Any] | None, int]:
    """Return the slices that the loader returns, and how many it refuses; None where it refuses the corpus."""
    try:
        data = KSpaceSlices(root)
    except RequestError:
        return None, 0
    found, num_refused = [], 0
    for index in range(len(data)):
        try:
            kspace, mask, target, attributes, name, number = data[index]
        except VolumeError:
            num_refused += 1
            continue
        told = sorted((key, repr(value)) for key, value in attributes.items())
        found.append((kspace.shape, kspace.tobytes(), mask.tobytes(), target.tobytes(), told, name, number))
    return found, num_refused


_whole: dict[str, list[Any]] = {}


def _whole_slices(seed: Seed, folder: Path) -> list[Any]:
    if seed.name not in _whole:
        for name, data in seed.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        slices, num_refused = loader_slices(folder / seed.path)
        if slices is None or num_refused:
            raise RuntimeError("the seed itself is damaged")
        _whole[seed.name] = slices
    return _whole[seed.name]
