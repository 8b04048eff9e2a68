"""Mutate files: bytes, and contents that no writer of the format writes. A plan is sampled first, then applied."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from fuzz import structures
from fuzz.seeds import Seed

LARGE = (0, 1, 2, 127, 128, 255, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Step:
    """One change: its kind, the part of the file (0 to 1), and a number."""

    change: str
    where: float
    number: int


@dataclass(frozen=True)
class Plan:
    """Which file of the seed is changed (0 to 1), and the changes."""

    file: float
    steps: tuple[Step, ...]


def draw_plan(target: str, source: random.Random) -> Plan:
    """Sample a plan: half of the steps change bytes, half change contents of the format."""
    names = [name for name, (targets, _) in structures.CHANGES.items() if target in targets]
    steps = []
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        change = source.choice(names) if names and source.random() < 0.6 else source.choice(sorted(BYTES))
        # headers stand in front: most places are drawn there
        where = source.random() ** source.choice((1, 1, 4, 12))
        steps.append(Step(change, where, source.getrandbits(32)))
    return Plan(source.random(), tuple(steps))


def change_names(target: str) -> list[str]:
    """Return the names of the changes of a target."""
    return sorted(BYTES) + [name for name, (targets, _) in structures.CHANGES.items() if target in targets]


def mutated(seed: Seed, plan: Plan) -> dict[str, bytes]:
    """Apply a plan to one file of the seed; changes that no longer apply are skipped."""
    files = dict(seed.files)
    name = sorted(files)[int(plan.file * len(files)) % len(files)]
    data = files[name]
    for step in plan.steps:
        data = _changed(step, data)
    files[name] = data
    return files


def _changed(step: Step, data: bytes) -> bytes:
    packed = data[:2] == b"\x1f\x8b" and step.number % 3 > 0  # two of three times what is inside
    if packed:
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, 1 << 24)
        except zlib.error:
            packed = False
    if step.change in BYTES:
        data = BYTES[step.change](data, int(step.where * len(data)), step.number)
    else:
        try:
            data = structures.CHANGES[step.change][1](data, step.where, step.number)
        except Exception:  # what an earlier step left cannot be read by the format's own library: leave it so
            return gzip.compress(data, 1, mtime=0) if packed else data
    return gzip.compress(data, 1, mtime=0) if packed else data


def _truncate(data: bytes, at: int, number: int) -> bytes:
    return data[:at]


def _flip(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :] if at < len(data) else data


def _set(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + bytes([number % 256]) + data[at + 1 :] if at < len(data) else data


def _number(data: bytes, at: int, number: int) -> bytes:
    size = (2, 4, 8)[number % 3]
    value = LARGE[number // 3 % len(LARGE)] % (1 << 8 * size)
    order = "little" if number // 64 % 2 else "big"
    return data[:at] + value.to_bytes(size, order) + data[at + size :]


def _zero(data: bytes, at: int, number: int) -> bytes:
    size = min(number % 4096, len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def _delete(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + data[at + number % 64 :]


def _repeat(data: bytes, at: int, number: int) -> bytes:
    part = data[at : at + number % 512]
    return data[:at] + part * (1 + number // 512 % 8) + data[at:]


def _insert(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + random.Random(number).randbytes(number % 64) + data[at:]  # noqa: S311


def _append(data: bytes, at: int, number: int) -> bytes:
    return data + random.Random(number).randbytes(number % 8192)  # noqa: S311


def _noise(data: bytes, at: int, number: int) -> bytes:
    size = min(number % 256, len(data) - at)
    return data[:at] + random.Random(number).randbytes(size) + data[at + size :]  # noqa: S311


BYTES: dict[str, Callable[[bytes, int, int], bytes]] = {
    "truncate": _truncate, "flip": _flip, "set": _set, "number": _number, "zero": _zero, "delete": _delete,
    "repeat": _repeat, "insert": _insert, "append": _append, "noise": _noise,
}  # fmt: skip
