"""Find the label maps that belong to images, by the names of nnU-Net and BIDS, on the same voxels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rephase.errors import VolumeError
from rephase.readers.geometry import Arrangement, match_grid
from rephase.readers.kinds import stem_of
from rephase.readers.nifti.header import NiftiHeader

_IMAGES = re.compile(r"images?(Tr|Ts|Val)?", re.IGNORECASE)
_LABELS = ("labels{}", "label{}", "masks{}", "segmentations{}")
_CHANNEL = re.compile(r"_\d{4}$")
_RANKS = (("dseg", "seg", "segmentation", "labels", "label", "labelmap", "gt", "groundtruth"), ("mask",))
_OF_LABELS = re.compile(r"(label|desc|seg|atlas|res|den)-.*")  # entities that name the labels, not the image
_MOST_LABEL = 255


@dataclass(frozen=True)
class LabelMap:
    """A label map: its file and header, and whether its values are whole numbers from 0 to 255."""

    path: Path
    header: NiftiHeader
    fits: bool


@dataclass(frozen=True)
class Image:
    """A magnitude image and its arrangement."""

    path: Path
    header: NiftiHeader
    arrangement: Arrangement


def match_labels(images: Sequence[Image], labels: Sequence[LabelMap]) -> dict[Path, list[Path]]:
    """Return the label maps of each image that has any, the best ones: one if there is no doubt.

    A map in `labelsTr` belongs to the image of the same case in `imagesTr`; a map whose name is that of the image and a
    word such as `dseg`, `seg` or `mask`, to the image beside it, or to that of its subject if it is in `derivatives`.
    Segmentations come before masks. Maps on other voxels are left out.
    """
    by_name: dict[tuple[Path, str], list[tuple[int, LabelMap]]] = defaultdict(list)
    for one in labels:
        if not one.fits:
            continue
        stem, rank = _image_stem(stem_of(one.path))
        by_name[_image_folder(one.path.parent), stem].append((rank, one))
    found = {}
    for image in images:
        ranked = [pair for key in _keys(image.path) for pair in by_name.get(key, ())]
        fitting = [(rank, one.path) for rank, one in ranked if _same_grid(image, one)]
        if fitting:
            best = min(rank for rank, _ in fitting)
            found[image.path] = sorted({path for rank, path in fitting if rank == best})
    return found


def _keys(path: Path) -> list[tuple[Path, str]]:
    """Return the folders and names under which the label maps of an image are found."""
    stem = stem_of(path)
    keys = []
    if (match := _IMAGES.fullmatch(path.parent.name)) is not None:
        folders = [path.parent.with_name(name.format(match[1] or "")) for name in _LABELS]
        keys += [(folder, name) for folder in folders for name in dict.fromkeys((stem, _CHANNEL.sub("", stem)))]
    # the whole name, or all but the contrast: sub-01_T1w_dseg, sub-01_dseg
    keys += [(path.parent, stem), (path.parent, stem.rpartition("_")[0])]
    return keys


def _image_stem(stem: str) -> tuple[str, int]:
    """Return the part of a label map's name that names its image, and the rank of the map."""
    words = re.split(r"_", stem)
    rank = len(_RANKS)
    for number, known in enumerate(_RANKS):
        if words[-1].lower() in known:
            rank, words = number, words[:-1]
            break
    return "_".join(word for word in words if _OF_LABELS.fullmatch(word) is None), rank


def _image_folder(folder: Path) -> Path:
    """Return the folder of the image of a map in `derivatives/<pipeline>`; for others, the same folder."""
    parts = list(folder.parts)
    if "derivatives" in parts:
        at = parts.index("derivatives")
        subject = next((k for k in range(at + 1, len(parts)) if parts[k].startswith("sub-")), None)
        if subject is not None:
            return Path(*parts[:at], *parts[subject:])
    return folder


def _same_grid(image: Image, one: LabelMap) -> bool:
    shape = image.arrangement.sizes(image.header.shape)
    try:
        match_grid(one.header.affine, one.header.shape, image.arrangement.affine, shape, "")
    except VolumeError:
        return False
    return one.header.num_frames in (1, image.header.num_frames)


def fits_column(least: float, most: float, whole: bool) -> bool:
    """Check whether values may be in the column `segmentation`."""
    return whole and least >= 0 and most <= _MOST_LABEL
