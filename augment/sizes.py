"""How large the volumes of a manifest are: told by the manifest, else estimated from some of the headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from augment.errors import VolumeError
from augment.readers import describe_row
from manifests.manifest import Manifest
from manifests.record import ManifestRow

MOST_HEADERS = 256

Shape = tuple[int, int, int]


@dataclass
class Sizes:
    """Sizes of everything that is asked for, replicas counted.

    `num_slices` and `num_voxels` are extrapolated from the headers that were read where not `exact`. `largest`
    is the shape (slices, height, width) of the largest volume seen, `matrix` the (height, width) that most slices have.
    """

    num_rows: int = 0
    num_volumes: int = 0
    num_slices: float = 0.0
    num_voxels: float = 0.0
    largest: Shape = (0, 0, 0)
    matrix: tuple[int, int] = (0, 0)
    shapes: Counter[Shape] = field(default_factory=Counter)
    headers_read: int = 0
    exact: bool = True
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Say where the sizes come from."""
        if not self.headers_read:
            return "the manifest"
        of = f"{self.headers_read} of {self.num_rows} headers"
        return of if sum(self.shapes.values()) <= self.headers_read else f"the manifest and {of}"


def measure_sizes(manifest: Manifest, replicas: int, progress: Callable[[], None] | None = None) -> Sizes:
    """Add up a manifest's sizes; where rows do not tell, read at most `MOST_HEADERS` headers spread over them."""
    sizes = Sizes(num_rows=len(manifest))
    untold: list[tuple[int, int]] = []
    slices_of: Counter[tuple[int, int]] = Counter()
    for number, row in enumerate(manifest):
        copies = row.replicas or replicas
        sizes.num_volumes += copies
        shape = stated_shape(row)
        if shape is None:
            untold.append((number, copies))
        else:
            _count(sizes, slices_of, shape, copies)
    if untold:
        _sample(manifest, untold, sizes, slices_of, progress)
    if slices_of:
        sizes.matrix = slices_of.most_common(1)[0][0]
    return sizes


def stated_shape(row: ManifestRow) -> Shape | None:
    """The shape that a row states, None where it lacks a number."""
    if row.num_slices is None or row.height is None or row.width is None:
        return None
    return row.num_slices, row.height, row.width


def _count(sizes: Sizes, slices_of: Counter[tuple[int, int]], shape: Shape, copies: float) -> None:
    num_slices, height, width = shape
    sizes.num_slices += copies * num_slices
    sizes.num_voxels += copies * num_slices * height * width
    sizes.shapes[shape] += 1
    sizes.largest = max(sizes.largest, shape, key=lambda one: one[0] * one[1] * one[2])
    slices_of[height, width] += num_slices


def _sample(
    manifest: Manifest,
    untold: list[tuple[int, int]],
    sizes: Sizes,
    slices_of: Counter[tuple[int, int]],
    progress: Callable[[], None] | None,
) -> None:
    chosen = untold[:: -(-len(untold) // MOST_HEADERS)]
    # headers that could not be read stand for other volumes that cannot be built
    weight = sum(copies for _, copies in untold) / sum(copies for _, copies in chosen)
    sizes.exact = len(chosen) == len(untold)
    for number, copies in chosen:
        row = manifest[number]
        sizes.headers_read += 1
        try:
            _count(sizes, slices_of, describe_row(row), copies * weight)
        except VolumeError as error:
            sizes.unreadable.append((row.volume_id, f"{error.reason}: {error}"))
        except Exception as error:  # a plan must come to its end over any file
            sizes.unreadable.append((row.volume_id, f"failed: {type(error).__name__}: {error}"))
        if progress is not None:
            progress()
