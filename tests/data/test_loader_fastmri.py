"""fastMRI's transforms, unmodified, over the slices of a corpus."""

from __future__ import annotations

import numpy as np
import pytest
from phantom_corpus import make_corpus
from torch.utils.data import DataLoader

from rephase.corpus.index_writer import write_index
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.masks import apply_mask
from rephase.data.stream import KSpaceStream
from rephase.scanner.masks import ColumnMask, seed_of

transforms = pytest.importorskip("fastmri.data.transforms", reason="the fastmri package is not installed")
subsample = pytest.importorskip("fastmri.data.subsample", reason="the fastmri package is not installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("fastmri") / "c"
    store = make_corpus(root, single={"num_slices": 2, "height": 32, "width": 32})
    write_index(store, ["single"])
    coils = root.parent / "m"
    write_index(make_corpus(coils, multi={"num_slices": 2, "height": 32, "width": 32, "coils": 3}), ["multi"])
    return root


@pytest.mark.parametrize("challenge", ["singlecoil", "multicoil"])
def test_unet_transform(root, challenge):
    where = root if challenge == "singlecoil" else root.parent / "m"
    mask_func = subsample.EquiSpacedMaskFunc([0.08], [4])
    slices = KSpaceSlices(where, transform=transforms.UnetDataTransform(challenge, mask_func))
    plain = KSpaceSlices(where)
    for item, (kspace, _, target, attrs, name, number) in zip(slices, plain, strict=False):
        assert (item.fname, item.slice_num, item.max_value) == (name, number, attrs["max"])
        masked = apply_mask(kspace, ColumnMask("equispaced", (4,), (0.08,))(32, seed_of(name)))
        axes = (-2, -1)
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(masked, axes), norm="ortho"), axes)
        image = np.sqrt((np.abs(image) ** 2).sum(axis=0)) if challenge == "multicoil" else np.abs(image)
        for given, expected in ((item.image, image), (item.target, target)):
            normal = (expected - float(item.mean)) / float(item.std)
            assert np.abs(given.numpy() - np.clip(normal, -6, 6)).max() < 1e-4  # fastMRI clamps at six deviations
    loader = DataLoader(KSpaceStream(slices, batch_size=2), batch_size=2)
    assert next(iter(loader)).image.shape == (2, 32, 32)


def test_varnet_transform(root):
    mask_func = subsample.RandomMaskFunc([0.08], [4])
    slices = KSpaceSlices(root.parent / "m", transform=transforms.VarNetDataTransform(mask_func))
    kspace, _, target, attrs, name, _ = KSpaceSlices(root.parent / "m")[1]
    item = slices[1]
    mask = ColumnMask("random", (4,), (0.08,))(32, seed_of(name))
    assert np.array_equal(item.mask.numpy().reshape(-1), mask > 0)
    masked = item.masked_kspace.numpy()
    assert np.array_equal(masked[..., 0] + 1j * masked[..., 1], apply_mask(kspace, mask))
    assert not np.signbit(masked[..., mask == 0, :]).any()
    assert np.array_equal(item.target.numpy(), target)
    assert (item.crop_size, item.max_value, item.num_low_frequencies) == ((32, 32), attrs["max"], 3)
