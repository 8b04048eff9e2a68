"""Counter-based noise: the same bits for the same key on every device, in any order, in any batch.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), written in torch
integer arithmetic: it needs only additions, rotations and exclusive-ors, for which int32 stores the bits of a 32-bit
word, whatever its sign; additions wrap around. A sample requires about a hundred operations, so the slices of a tile
are sampled together: the launches of one slice at a time would keep a GPU waiting.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from rephase.diffusion.devices import from_scalars
from rephase.diffusion.generators import SliceKey

_HIGH_BITS = (1 << 24) - 1
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_VOLUME_SLICE = (1 << 24) - 1
_FIRST_ANCHOR = 1 << 24


class Stream(IntEnum):
    """Purpose of the random numbers of a slice: streams of one key never overlap."""

    SOURCE = 0
    NOISE = 1
    GAUGE = 2
    BASELINE = 3
    SOURCE_NOISE = 4
    RECEIVER = 6
    COILS = 7


def threefry2x32(key: tuple[int, int], counter_0: Tensor, counter_1: Tensor) -> tuple[Tensor, Tensor]:
    """Compute random words by encrypting counters with Threefry-2x32-20.

    Parameters
    ----------
    key
        Two 32-bit words.
    counter_0, counter_1
        int32 tensors with the bits of 32-bit words, of broadcastable shapes.

    Returns
    -------
    words
        Two int32 tensors of the broadcast shape, with uniformly distributed bits.
    """
    keys = [_as_int32(word) for word in (key[0], key[1], _PARITY ^ key[0] ^ key[1])]
    x_0 = torch.zeros_like(counter_1) + counter_0 + keys[0]
    x_1 = torch.zeros_like(counter_0) + counter_1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x_0.add_(x_1)
            # the right shift of a signed integer repeats the sign, so it is masked
            low = (x_1 >> (32 - rotation)).bitwise_and_((1 << rotation) - 1)
            x_1.bitwise_left_shift_(rotation).bitwise_or_(low).bitwise_xor_(x_0)
        x_0.add_(keys[(group + 1) % 3])
        x_1.add_(_as_int32(keys[(group + 2) % 3] + group + 1))
    return x_0, x_1


def _as_int32(word: int) -> int:
    """Return the int32 value of the lowest 32 bits."""
    return (word + (1 << 31)) % (1 << 32) - (1 << 31)


def uniform(key: SliceKey, stream: Stream, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Sample `count` float32 numbers on [0, 1), with 24 random bits each."""
    return uniforms([key], stream, count, device)[0]


def uniforms(keys: Sequence[SliceKey], stream: Stream, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Sample for several slices as `uniform` does for one, `(key count)`."""
    volumes = [_volume_key(key) for key in keys]
    if len(set(volumes)) > 1:
        return torch.cat([uniforms([key], stream, count, device) for key in keys])
    index = torch.arange((count + 1) // 2, dtype=torch.int32, device=device)
    words = from_scalars([_as_int32(key.slice_index << 3 | stream) for key in keys], device, torch.int32)
    x_0, x_1 = threefry2x32(volumes[0], index, words[:, None])
    bits = torch.stack((x_0, x_1), dim=-1).reshape(len(keys), -1)[:, :count]
    return (bits >> 8).bitwise_and_(_HIGH_BITS).to(torch.float32) * 2.0**-24


def normal(key: SliceKey, stream: Stream, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Sample `count` standard normal float32 numbers (Box-Muller)."""
    return normals([key], stream, count, device)[0]


def normals(keys: Sequence[SliceKey], stream: Stream, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Sample for several slices as `normal` does for one, `(key count)`."""
    half = (count + 1) // 2
    pairs = uniforms(keys, stream, 2 * half, device).reshape(len(keys), 2, half)
    radius = torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0]))
    angle = 2.0 * math.pi * pairs[:, 1]
    return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1)[:, :count]


def complex_normal(
    key: SliceKey, stream: Stream, height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Sample complex numbers whose real and imaginary parts are standard normal, complex64 `(height width)`."""
    return complex_normals([key], stream, height, width, device)[0]


def complex_normals(
    keys: Sequence[SliceKey], stream: Stream, height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Sample for several slices as `complex_normal` does for one, complex64 `(key height width)`."""
    parts = normals(keys, stream, 2 * height * width, device).reshape(len(keys), 2, height, width)
    return torch.complex(parts[:, 0], parts[:, 1])


def random_phasor(key: SliceKey, stream: Stream, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sample independent uniform phases as phasors, complex64 `(height width)`."""
    return random_phasors([key], stream, height, width, device)[0]


def random_phasors(
    keys: Sequence[SliceKey], stream: Stream, height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Sample for several slices as `random_phasor` does for one, complex64 `(key height width)`."""
    angle = uniforms(keys, stream, height * width, device).reshape(len(keys), height, width) * (2.0 * math.pi)
    return torch.polar(torch.ones_like(angle), angle)


def volume_key(key: SliceKey) -> SliceKey:
    """Return the key for random numbers that the slices of a volume, or the volumes of an exam, share."""
    return SliceKey(key.seed, _shared_id(key), key.replica, _VOLUME_SLICE)


def step_key(key: SliceKey, step: int) -> SliceKey:
    """Return the key of one step of a sampler; it is unique because no volume ID contains `#`."""
    return SliceKey(key.seed, f"{key.volume_id}#{step}", key.replica, key.slice_index)


def anchor_key(key: SliceKey, anchor: int) -> SliceKey:
    """Return the key for random numbers that neighbouring slices share; it differs from that of every slice."""
    return SliceKey(key.seed, _shared_id(key), key.replica, _FIRST_ANCHOR + anchor)


def anchored_normals(
    keys: Sequence[SliceKey],
    places_mm: Sequence[float],
    anchor_mm: float,
    stream: Stream,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample standard normal numbers that are correlated through a volume, `(key count)`.

    Each is `cos(a) n_k + sin(a) n_(k+1)`, with independent normals at anchors `anchor_mm` apart and `a` from 0 to pi/2
    between two of them, so its variance is 1 everywhere. Slices closer than `2 anchor_mm` are correlated: at a distance
    of d anchors by `cos(d pi/2)` between the same anchors, and by 2/pi times that or more over all positions.
    """
    positions = [place / anchor_mm for place in places_mm]
    anchors = [math.floor(position) for position in positions]
    # cos^2 + sin^2 = 1 keeps the variance between two anchors
    angles = [(position - anchor) * math.pi / 2.0 for position, anchor in zip(positions, anchors, strict=True)]
    here, there = (
        normals(
            [anchor_key(key, anchor + step) for key, anchor in zip(keys, anchors, strict=True)], stream, count, device
        )
        for step in (0, 1)
    )
    cosines, sines = (from_scalars(map(f, angles), device)[:, None] for f in (math.cos, math.sin))
    return cosines * here + sines * there


def _shared_id(key: SliceKey) -> str:
    # no volume ID contains a colon
    return key.volume_id if key.exam is None else f"exam:{key.exam}"


def _volume_key(key: SliceKey) -> tuple[int, int]:
    text = f"{key.seed}/{key.volume_id}/{key.replica}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
