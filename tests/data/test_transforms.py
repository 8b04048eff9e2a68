"""Transforms act on k-space as on its image: one matrix, flips, normalisation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from phantom_corpus import make_attributes, make_corpus
from torch.utils.data import DataLoader

from rephase import transforms
from rephase.corpus.index_writer import write_index
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.masks import MaskedSlices
from rephase.data.mix import mix
from rephase.data.stream import KSpaceStream
from rephase.errors import RequestError
from rephase.numpy_fourier import fft2c_array, ifft2c_array
from rephase.scanner.masks import ColumnMask
from rephase.transforms import Compose, FitMatrix, Normalise, RandomFlips

MASK = ColumnMask("random", (2,), (0.25,))


def smooth(height, width, coils=0):
    """An image of low frequencies only, which survive a crop of k-space."""
    y, x = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    image = 3 + np.exp(2j * np.pi * y) + 0.5 * np.exp(-4j * np.pi * x) + 0.2j
    if coils:
        image = image * np.exp(1j * np.arange(coils))[:, None, None] / np.sqrt(coils)
    return image.astype(np.complex64)


def item_of(image, target_size=None, **more):
    kspace = fft2c_array(image)
    target = transforms.magnitude_of(image).astype(np.float32)
    target = transforms.change_extent(target, target_size or target.shape)
    arrays = {"kspace": kspace[None], ("reconstruction_rss" if image.ndim == 3 else "reconstruction_esc"): target[None]}
    attrs = make_attributes(arrays) | {"encoding_size": (*kspace.shape[-2:], 1)} | more
    return transforms.Item(kspace, None, target, attrs, "a", 0)


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(8, 10), (9, 7), (24, 12), (15, 13)])
@pytest.mark.parametrize("coils", [0, 2])
def test_another_resolution_has_the_intensity_of_the_same_image(size, coils):
    kspace = fft2c_array(smooth(16, 12, coils))
    close(ifft2c_array(transforms.change_resolution(kspace, size)), shifted(smooth(16, 12, coils), size, (16, 12)))


def shifted(image, size, old):
    """The same image sampled anew: both grids agree at their centres."""
    new = smooth(*size, coils=len(image) if image.ndim == 3 else 0)
    spectrum, other = fft2c_array(image), fft2c_array(new)
    # same coefficients, other phases, since index 0 is no centre: take those of the original
    middle = tuple(one // 2 for one in size)
    for row in range(-1, 2):
        for column in range(-2, 3):
            here = (..., middle[0] + row, middle[1] + column)
            there = (..., old[0] // 2 + row, old[1] // 2 + column)
            other[here] = spectrum[there] * np.sqrt(np.prod(size) / np.prod(old))
    return ifft2c_array(other)


@pytest.mark.parametrize("size", [(8, 10), (9, 7), (24, 12), (15, 13)])
def test_another_field_of_view_has_the_same_pixels(size):
    image = smooth(16, 12)
    found = ifft2c_array(transforms.change_field_of_view(fft2c_array(image), size))
    close(found, transforms.change_extent(image, size))
    rows, columns = (abs(new - old) // 2 for new, old in zip(size, image.shape, strict=True))
    back = transforms.change_extent(transforms.change_extent(image, (24, 24)), (16, 12))
    assert np.array_equal(back, image)
    if size == (8, 10):
        close(found, image[rows : rows + 8, columns : columns + 10])  # as fastMRI crops


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (8, 5), (7, 5)])
@pytest.mark.parametrize("axis", ["height", "width"])
def test_a_flip_of_kspace_is_that_of_its_image(shape, axis):
    random = np.random.default_rng(1)
    image = (random.normal(size=(2, *shape)) + 1j * random.normal(size=(2, *shape))).astype(np.complex64)
    kspace = fft2c_array(image)
    number = 1 if axis == "height" else 2
    close(ifft2c_array(transforms.flip(kspace, axis)), np.flip(image, number))
    close(transforms.flip(transforms.flip(kspace, axis), axis), kspace)
    for size in (5, 4, 3):  # a central crop stays in its place
        cropped = [size if n == number else shape[n - 1] for n in (1, 2)]
        found = transforms.change_extent(ifft2c_array(transforms.flip(kspace, axis, size)), tuple(cropped))
        close(found, np.flip(transforms.change_extent(image, tuple(cropped)), number))
        close(transforms.flip_image(image, axis, size), ifft2c_array(transforms.flip(kspace, axis, size)))
    mask = (random.uniform(size=shape[1]) < 0.5).astype(np.float32)
    masked = transforms.flip(kspace * mask, "width")
    assert np.array_equal((masked != 0).any(axis=(0, 1)), transforms.flip_mask(mask) > 0)
    assert not np.signbit(masked[masked == 0].real).any()


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("size", [(8, 16), (20, 8), (12, 12), (9, 15)])
def test_kspace_target_and_attributes_fit_one_matrix_together(coils, size):
    maps = np.ones((max(coils, 1), 16, 12), np.complex64) * np.exp(0.3j)
    labels = np.random.default_rng(0).integers(0, 5, (16, 12), np.uint8)
    item = item_of(smooth(16, 12, coils), sens_maps=maps, segmentation=labels, spacing_mm=(4.0, 1.0, 2.0))
    found = FitMatrix(size)(*item)
    assert found.kspace.dtype == np.complex64
    assert found.target.dtype == np.float32
    close(found.target, transforms.magnitude_of(ifft2c_array(found.kspace)))
    assert found.attrs["sens_maps"].shape == (len(maps), *size)
    assert found.attrs["segmentation"].shape == size
    assert found.attrs["encoding_size"] == found.attrs["recon_size"] == (*size, 1)
    assert (found.attrs["padding_left"], found.attrs["padding_right"]) == (0, size[1])
    spacing = [step * max(old / new, 1) for step, old, new in zip((1.0, 2.0), (16, 12), size, strict=True)]
    assert found.attrs["spacing_mm"] == (4.0, *spacing)
    assert item.attrs["spacing_mm"] == (4.0, 1.0, 2.0)  # not changed in place
    middle = (size[0] // 2, size[1] // 2)
    assert found.target[middle] == pytest.approx(item.target[8, 6], rel=0.02)  # the intensity


def test_oversampling_is_cropped_first_and_the_other_way_round():
    random = np.random.default_rng(0)
    image = random.normal(size=(16, 12)) + 1j * random.normal(size=(16, 12))
    item = item_of(image.astype(np.complex64), target_size=(8, 12))
    close(FitMatrix((8, 12))(*item).target, item.target)
    close(np.abs(ifft2c_array(FitMatrix((8, 12))(*item).kspace)), item.target)
    cut = FitMatrix((6, 10), larger="field_of_view")(*item)
    close(cut.target, item.target[1:7, 1:11])
    finer = FitMatrix((16, 24), smaller="resolution")(*item)
    assert finer.attrs["spacing_mm"] == (4.0, 0.5, 0.5)
    close(finer.target[::2, ::2], item.target)  # the old pixels are every other one


def test_labels_follow_the_image():
    labels = np.zeros((16, 12), np.uint8)
    labels[4:8] = 3
    item = item_of(smooth(16, 12), segmentation=labels)
    found = FitMatrix((8, 12))(*item).attrs["segmentation"]
    assert [row for row in range(8) if (found[row] == 3).all()] == [2, 3]
    flipped = transforms.flip_item(item, "height")
    assert np.array_equal(flipped.attrs["segmentation"], labels[::-1])
    close(np.abs(ifft2c_array(flipped.kspace)), item.target[::-1])


def test_padding_is_mirrored_and_scaled():
    item = item_of(smooth(8, 12), padding_left=2, padding_right=9)
    flipped = transforms.flip_item(item, "width").attrs
    assert (flipped["padding_left"], flipped["padding_right"]) == (4, 11)
    wide = FitMatrix((8, 24))(*item).attrs
    assert (wide["padding_left"], wide["padding_right"]) == (4, 18)
    narrow = FitMatrix((8, 8))(*item).attrs
    assert (narrow["padding_left"], narrow["padding_right"]) == (0, 7)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("transforms") / "c"
    sizes = {"v0": (16, 12), "v1": (8, 20)}
    volumes = {
        name: {"seed": n, "num_slices": 4, "height": size[0], "width": size[1]}
        for n, (name, size) in enumerate(sizes.items())
    }
    write_index(make_corpus(root, **volumes), list(volumes))
    return root


def digest(items):
    return {(item[4], int(item[5])): (item[0].tobytes(), item[2].tobytes()) for item in items}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork.*:DeprecationWarning")
def test_augmented_slices_are_a_function_of_seed_epoch_and_slice(root):
    def chain(seed=3):
        return Compose(FitMatrix((12, 16)), RandomFlips(seed=seed), MaskedSlices(MASK, training=True), Normalise())

    def read(seed, epoch):
        slices = KSpaceSlices(root, transform=chain(seed))
        slices.set_epoch(epoch)
        return digest(slices[number] for number in reversed(range(8)))

    expected = {key: read(*key) for key in ((3, 0), (3, 1), (4, 0))}
    assert read(3, 1) == expected[3, 1]
    assert len({str(one) for one in expected.values()}) == 3
    slices = KSpaceSlices(root, transform=pickle.loads(pickle.dumps(chain())))  # noqa: S301
    stream = KSpaceStream(slices, batch_size=2)
    loader = DataLoader(stream, batch_size=2, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        found = {}
        for kspace, _, target, _, fname, number in loader:  # collated: all of one matrix
            found |= digest(zip(kspace.numpy(), [0] * 2, target.numpy(), [0] * 2, fname, number, strict=True))
        assert found == expected[3, epoch]
    del loader


def test_a_mixture_of_other_matrices_is_collated_by_a_transform(root):
    fit = FitMatrix((10, 10))
    one, other = (KSpaceSlices(root, volumes=[name], transform=fit) for name in ("v0", "v1"))
    (batch,) = DataLoader(mix(one, other, 0.5), batch_size=8)
    assert batch[0].shape == (8, 10, 10)


def test_about_half_of_the_slices_are_flipped():
    item, flips, drawn = item_of(smooth(8, 6)), RandomFlips(seed=1), []
    for number in range(400):
        found = flips(*item[:5], number)
        drawn.append(not np.array_equal(found.target, item.target))
    assert 240 < sum(drawn) < 360  # three of four
    assert RandomFlips((), seed=1)(*item).kspace is item.kspace
    assert np.array_equal(RandomFlips(("width",), 1.0)(*item).target, item.target[:, ::-1])


def test_normalisation():
    item = item_of(smooth(8, 6, 2))
    for by, scale in (("input", float(item.target.max())), ("volume", item.attrs["max"])):
        found = Normalise(by)(*item)
        assert found.attrs["divided_by"] == pytest.approx(scale)
        close(found.target * np.float32(scale), item.target)
        assert found.attrs["max"] == pytest.approx(item.attrs["max"] / scale)
        close(transforms.magnitude_of(ifft2c_array(found.kspace)), found.target)
    empty = Normalise()(*item_of(np.zeros((4, 4), np.complex64)))
    assert not empty.kspace.any()
    assert Normalise()(*item._replace(target=None)).target is None


def test_what_transforms_refuse(root):
    item = item_of(smooth(8, 6))
    unknown = item._replace(attrs=item.attrs | {"max": np.nan})
    wrong = {
        "larger 'crop': expected resolution or field_of_view": lambda: FitMatrix((8, 8), larger="crop"),
        "size .0, 8.: expected height and width": lambda: FitMatrix((0, 8)),
        "size 8: expected height and width": lambda: FitMatrix(8),
        "axes 'width': expected some of": lambda: RandomFlips("width"),
        "probability 2: expected 0 to 1": lambda: RandomFlips(probability=2),
        "by 'max': expected input or volume": lambda: Normalise("max"),
        "axis 'depth': expected height or width": lambda: transforms.flip(item.kspace, "depth"),
        "maximum of the volume is unknown": lambda: Normalise("volume")(*unknown),
        "put FitMatrix before MaskedSlices": lambda: KSpaceSlices(
            root, transform=Compose(MaskedSlices(MASK), FitMatrix((8, 8)))
        )[0],
    }
    for message, attempt in wrong.items():
        with pytest.raises(RequestError, match=message) as error:
            attempt()
        assert "\n" not in str(error.value)
