"""Volumes stored as image and coil coefficients: expand their slices to the k-space of all coils, and to coil maps.

Imports torch only when a slice is expanded, so that commands that only read stored k-space start quickly.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, decode_shard
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.storage.base import Storage
from rephase.files import sha256

if TYPE_CHECKING:
    from rephase.scanner.expand import CoilMaps
    from rephase.scanner.noise import Noise
    from rephase.scanner.sampling import Sampling

LAZY = "image+maps"
"""Value of `storage` of volumes whose k-space is computed when it is read."""

COILS_SHARD = "coil_coefficients/c.0.0.0.0"
"""Key of the coil coefficients inside a volume."""

COVARIANCE_SHARD = "noise_covariance/c.0.0"
"""Key of the covariance of the noise inside a volume."""

_KEPT_VOLUMES = 64


@dataclass(frozen=True)
class ScanNoise:
    """Noise of a volume: `noise_sigma`, `noise_along`, `seed` and `replica` of its receipt."""

    sigma: float
    along: float
    seed: int
    replica: int


@dataclass(frozen=True)
class SampledPart:
    """Matrix of k-space and its sampled part, as in a receipt or a row of an index."""

    height: int
    width: int
    top: int
    left: int
    right: int
    elliptical: bool

    @classmethod
    def of(cls, facts: Mapping[str, Any], height: int, width: int, image_height: int) -> SampledPart | None:
        """Return the part by `padding_left`, `padding_right`, `readout_start` and `elliptical`; None if it is all."""
        top, elliptical = facts.get("readout_start") or 0, bool(facts.get("elliptical"))
        part = cls(
            int(height), int(width), int(top), int(facts["padding_left"]), int(facts["padding_right"]), elliptical
        )
        return None if part == cls(image_height, part.width, 0, 0, part.width, False) else part


def scanner_digest(receipt: Mapping[str, Any]) -> str | None:
    """Return one SHA-256 for what a receipt says of coil coefficients and noise covariance; None without coils."""
    checksums = receipt.get("checksums", {})
    digests = [checksums[key] for key in (COILS_SHARD, COVARIANCE_SHARD) if key in checksums]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()) if digests else None


@dataclass(frozen=True)
class Scan:
    """What determines the k-space of a volume besides its image.

    Attributes
    ----------
    name
        The volume.
    num_coils, num_slices
        Coils, and slices.
    height, width
        Size of the image.
    digest
        `scanner_digest` of the receipt; None if unknown.
    noise
        Level, and key of the random numbers; None without noise.
    sampled
        What of k-space is sampled; None if every point of the image's own matrix is.
    """

    name: str
    num_coils: int
    num_slices: int
    height: int
    width: int
    digest: str | None = None
    noise: ScanNoise | None = None
    sampled: SampledPart | None = None

    @classmethod
    def of(cls, name: str, receipt: Mapping[str, Any]) -> Scan:
        """Return the scan of a receipt; without coil coefficients, that of a single coil without an axis."""
        entry = receipt["arrays"].get("coil_coefficients")
        num_coils = 0 if entry is None else int(entry["shape"][0])
        height, width, _ = receipt["recon_size"]
        noise = None
        if receipt["noise_sigma"] > 0 and receipt.get("noise_along") is not None:
            level = float(receipt["noise_sigma"]), float(receipt["noise_along"])
            noise = ScanNoise(*level, int(receipt["seed"]), int(receipt["replica"]))
        digest = scanner_digest(receipt)
        sampled = SampledPart.of(receipt, receipt["encoding_size"][0], receipt["encoding_size"][1], int(height))
        return cls(name, num_coils, int(receipt["num_slices"]), int(height), int(width), digest, noise, sampled)

    @property
    def volume_id(self) -> str:
        """The volume's id, without the number of a replica."""
        return self.name.partition("@")[0]


class Expander:
    """Expands slices of a corpus. Keeps the maps of a few volumes; may be pickled and forked.

    Parameters
    ----------
    storage
        Storage of the corpus.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: dict[Scan, tuple[CoilMaps | None, Noise | None, Sampling | None]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self._storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def kspace(
        self, scan: Scan, image: NDArray[np.complex64], slice_index: int, mask: NDArray[Any] | None = None
    ) -> NDArray[np.complex64]:
        """Return the k-space of one slice, complex64 `(coil height width)`, from its image `(height width)`.

        `mask` is the volume's own sampling mask `(width)`.

        Raises
        ------
        ShardError
            If the coefficients are missing or damaged.
        """
        from rephase.scanner.sampling import sampled_kspace

        maps, noise, sampling = self._parts(scan)
        if maps is None:
            raise ValueError(f"{scan.name}: has no coils to expand")
        return sampled_kspace(image, slice_index, maps, noise, sampling, mask)

    def noise(self, scan: Scan, slice_index: int) -> NDArray[np.complex64]:
        """Return the noise of the images of one slice, complex64 `([coil] height width)`; errors as in `kspace`."""
        maps, noise, sampling = self._parts(scan)
        if noise is None:
            height = scan.height if sampling is None else sampling.height
            return np.zeros((*((scan.num_coils,) if scan.num_coils else ()), height, scan.width), np.complex64)
        sampled: NDArray[np.complex64] = noise.of_slice(slice_index, scan.height, scan.width, maps, sampling).numpy()
        return sampled

    def maps(self, scan: Scan, slice_index: int) -> NDArray[np.complex64]:
        """Return the coil maps of one slice, complex64 `(coil height width)`; errors as in `kspace`."""
        maps, _, _ = self._parts(scan)
        if maps is None:
            raise ValueError(f"{scan.name}: has no coils")
        return maps.sensitivities(slice_index)

    def _parts(self, scan: Scan) -> tuple[CoilMaps | None, Noise | None, Sampling | None]:
        from rephase.diffusion.generators import SliceKey
        from rephase.scanner.expand import CoilMaps
        from rephase.scanner.noise import Noise, NoiseLevel
        from rephase.scanner.sampling import Sampling

        found = self._kept.get(scan)
        if found is None:
            coefficients, covariance = read_scanner(self._storage, scan)
            maps = None if coefficients is None else CoilMaps(coefficients, scan.num_slices, scan.height, scan.width)
            noise = None
            if scan.noise is not None:
                key = SliceKey(scan.noise.seed, scan.volume_id, scan.noise.replica, 0)
                noise = Noise(NoiseLevel(scan.noise.sigma, scan.noise.along), key, covariance)
            part = scan.sampled
            sampling = None if part is None else Sampling(scan.height, *astuple(part))
            found = (maps, noise, sampling)
            with self._lock:
                self._kept[scan] = found
                while len(self._kept) > _KEPT_VOLUMES:
                    self._kept.pop(next(iter(self._kept)))
        return found


def read_scanner(storage: Storage, scan: Scan) -> tuple[NDArray[np.complex64] | None, NDArray[np.complex64] | None]:
    """Read the coil coefficients `(coil 5 5 5)` and the covariance of the noise `(coil coil)`; None if there is none.

    Raises
    ------
    ShardError
        If they are missing, damaged, or not those that the receipt names.
    """
    if not scan.num_coils:
        return None, None
    shapes: dict[str, tuple[int, ...]] = {"coil_coefficients": (scan.num_coils, 5, 5, 5)}
    if scan.noise is not None:
        shapes["noise_covariance"] = (scan.num_coils, scan.num_coils)
    arrays, digests = [], []
    for array, shape in shapes.items():
        layout = ArrayLayout.of(array, shape, scan.name)
        ((key, chunks),) = layout.shards()
        data = storage.get(key)
        if data is None:
            raise ShardError(f"{key}: the shard is missing")
        digests.append(sha256(data))
        try:
            arrays.append(np.stack(list(decode_shard(data, layout, len(chunks)))))
        except ShardError as error:
            raise ShardError(f"{key}: {error}") from None
    found = digests[0] if len(digests) == 1 else sha256("".join(digests).encode())
    if scan.digest is not None and found != scan.digest:
        raise ShardError("coils or noise are not those that the receipt names")
    return arrays[0], arrays[1] if len(arrays) > 1 else None


def kspace_shape(receipt: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a volume's k-space, stored or expanded: `(slice [coil] height width)`."""
    arrays = receipt["arrays"]
    if "kspace" in arrays:
        return tuple(int(size) for size in arrays["kspace"]["shape"])
    height, width, _ = receipt["encoding_size"]
    return int(receipt["num_slices"]), int(arrays["coil_coefficients"]["shape"][0]), int(height), int(width)
