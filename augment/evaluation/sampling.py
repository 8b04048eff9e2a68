"""Generated phase of real slices, sampled once and cached in the output folder."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.generators import PhaseGenerator, SliceKey
from rephase.diffusion.registry import generator_for
from rephase.errors import RequestError
from rephase.evaluation.candidates import Candidate
from rephase.evaluation.sessions import RealVolume
from rephase.files import replacing, sha256

LEVELS = 1 << 16
"""Phase levels of samples, cached or not, so that a resumed run yields equal figures."""
GPU_SLICES = 16


class Sampler:
    """Samples phase for real volumes; `folder` caches the samples of networks, one file per slice.

    Samples depend on the code too, so the cache is keyed by a digest of `rephase.diffusion`.
    """

    def __init__(
        self, folder: Path | None, device: str = "cpu", progress: Callable[[int], object] | None = None
    ) -> None:
        self.folder, self.slices_per_call = folder, 1 if device == "cpu" else GPU_SLICES
        self.progress = progress or (lambda count: None)

    def sample(
        self, candidate: Candidate, volume: RealVolume, seed: int, chosen: Sequence[int] | None = None
    ) -> NDArray[np.complex64]:
        """Return phasors `(slice height width)` of the volume's slices, or of those at the positions `chosen`."""
        return decode(self.sample_codes(candidate, volume, seed, chosen))

    def sample_codes(
        self, candidate: Candidate, volume: RealVolume, seed: int, chosen: Sequence[int] | None = None
    ) -> NDArray[np.uint16]:
        """Return phases as codes (see `encode`), which need a quarter of the memory."""
        places = list(range(len(volume.real.slices)) if chosen is None else chosen)
        height, width = volume.real.magnitude.shape[1:]
        folder = self._folder(candidate, volume)
        codes = np.zeros((len(places), height, width), np.uint16)
        missing = [row for row, place in enumerate(places) if not _load(codes[row], _file(folder, seed, volume, place))]
        self.progress(len(places) - len(missing))
        for start in range(0, len(missing), self.slices_per_call):
            rows = missing[start : start + self.slices_per_call]
            codes[rows] = encode(_generate(candidate.generator, volume, seed, [places[row] for row in rows]))
            for row in rows:
                _save(codes[row], _file(folder, seed, volume, places[row]))
            self.progress(len(rows))
        return codes

    def _folder(self, candidate: Candidate, volume: RealVolume) -> Path | None:
        if self.folder is None or not candidate.nfe:  # phase without a network is computed faster than it is read
            return None
        conditions = volume.conditions
        facts = [candidate.identity, candidate.label, volume.source_sha256, code_digest(), repr(conditions)]
        digest = sha256(json.dumps(facts).encode())[:16]
        slug = re.sub(r"[^A-Za-z0-9]+", "-", candidate.label).strip("-")
        return self.folder / slug / f"{volume.volume_id}-{digest}"


def encode(phasor: NDArray[np.complex64]) -> NDArray[np.uint16]:
    """Encode phases as one of `LEVELS` levels; phase 0 is exact."""
    steps = np.rint((np.angle(phasor).astype(np.float64) + np.pi) * (LEVELS / (2.0 * np.pi)))
    codes: NDArray[np.uint16] = (steps.astype(np.int64) % LEVELS).astype(np.uint16)
    return codes


def decode(codes: NDArray[np.uint16]) -> NDArray[np.complex64]:
    """Return the phasors of codes."""
    angle = codes.astype(np.float64) * (2.0 * np.pi / LEVELS) - np.pi
    phasor: NDArray[np.complex64] = np.exp(1j * angle).astype(np.complex64)
    return phasor


@cache
def code_digest() -> str:
    """Return a digest of the source code of `rephase.diffusion`."""
    import rephase.diffusion

    digest = hashlib.sha256()
    for path in sorted(Path(rephase.diffusion.__path__[0]).rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _generate(generator: PhaseGenerator, volume: RealVolume, seed: int, places: Sequence[int]) -> NDArray[np.complex64]:
    keys = [SliceKey(seed, volume.volume_id, 0, volume.real.slices[place]) for place in places]
    magnitude = torch.from_numpy(np.ascontiguousarray(np.abs(volume.real.magnitude[list(places)])))
    generator = generator_for(generator, volume.conditions.sequence)
    phasor: NDArray[np.complex64] = generator.sample_phase(magnitude, keys, volume.conditions).numpy()
    if not np.isfinite(phasor).all():
        raise RequestError(
            f"{volume.volume_id}: {generator.name} returned phase that is not finite; expected angles; remove the "
            "generator or the volume, or use other weights"
        )
    return phasor


def _file(folder: Path | None, seed: int, volume: RealVolume, place: int) -> Path | None:
    return None if folder is None else folder / f"{seed}-{volume.real.slices[place]}.npy"


def _load(into: NDArray[np.uint16], path: Path | None) -> bool:
    """Read a cached slice; return False if it is missing, truncated or of another shape."""
    if path is None or not path.is_file():
        return False
    try:
        kept = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return False
    if kept.shape != into.shape or kept.dtype != into.dtype:
        return False
    into[:] = kept
    return True


def _save(codes: NDArray[np.uint16], path: Path | None) -> None:
    """Write a slice to the cache, atomically."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()  # np.save to a full disk raises no error that names the cause
    np.save(file, codes, allow_pickle=False)
    with replacing(path) as partial:
        partial.write_bytes(file.getvalue())
