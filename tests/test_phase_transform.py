"""`AddPhase` on arrays, and on what TorchIO and MONAI hand to a transform."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import rephase
from rephase import AddPhase, ifft2c
from rephase.errors import RephaseError


def magnitude(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).rayleigh(1.0, shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(24, 20), (3, 24, 20)])
def test_kspace_of_an_array_keeps_its_magnitude(shape: tuple[int, ...]) -> None:
    image = magnitude(*shape)
    for given in (image, image.numpy()):
        kspace = AddPhase("smooth")(given)
        assert kspace.dtype == torch.complex64 and kspace.shape == image.shape
        torch.testing.assert_close(ifft2c(kspace).abs(), image, atol=1e-5, rtol=1e-5)


def test_every_call_has_another_phase_and_a_seed_repeats_them() -> None:
    transform, image = AddPhase("smooth"), magnitude(24, 20)
    torch.manual_seed(1)
    first, second = transform(image), transform(image)
    torch.manual_seed(1)
    assert torch.equal(transform(image), first) and not torch.allclose(first, second)
    fixed = AddPhase("smooth", seed=5)
    assert torch.equal(fixed(image), fixed(image))
    expected = rephase.add_phase(image.numpy(), generator="smooth", seed=5)
    torch.testing.assert_close(fixed(image), rephase.fft2c(torch.from_numpy(expected)))


def test_a_dictionary_as_of_monai_gets_the_kspace_beside_its_image() -> None:
    image = magnitude(2, 24, 20)
    sample = {"image": image, "label": 1}
    out = AddPhase("smooth", keys="image")(sample)
    assert set(sample) == {"image", "label"} and set(out) == {"image", "label", "image_kspace"}
    torch.testing.assert_close(ifft2c(out["image_kspace"]).abs(), image, atol=1e-5, rtol=1e-5)


class Subject(dict):
    """As TorchIO's: a dictionary of images with `data` (channel, x, y, z) and `spacing`."""


def test_a_subject_as_of_torchio_is_read_along_its_axes() -> None:
    image = magnitude(1, 24, 20, 6)
    subject = Subject(t1=SimpleNamespace(data=image, spacing=(0.8, 0.9, 3.0)))
    transform = AddPhase("smooth", keys=["t1"], te_ms=5, field_t=3, seed=2)
    out = transform(subject)
    assert type(out) is Subject and out["t1"] is subject["t1"]
    kspace = out["t1_kspace"]
    assert kspace.shape == image.shape
    volume = image[0].permute(2, 0, 1)
    expected = AddPhase("smooth", spacing_mm=(3.0, 0.8, 0.9), te_ms=5, field_t=3, seed=2)(volume)
    torch.testing.assert_close(kspace[0].permute(2, 0, 1), expected)


class Images(Dataset):
    def __init__(self) -> None:
        self.transform = AddPhase("smooth")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.transform(magnitude(16, 16))


def test_epochs_and_workers_of_a_loader_get_other_phases() -> None:
    pickle.loads(pickle.dumps(AddPhase("smooth")))  # noqa: S301
    loader = DataLoader(Images(), batch_size=4, num_workers=0)
    epochs = [next(iter(loader)) for _ in range(2)]
    slices = torch.cat(epochs)
    assert all(not torch.allclose(slices[i], slices[j]) for i in range(8) for j in range(i))


def test_what_cannot_be_done_is_one_line() -> None:
    for call, message in (
        (lambda: AddPhase(layout="hx"), "layout 'hx'"),
        (lambda: AddPhase("smooth")(magnitude(1, 2, 3, 4, 5)), "expected h w or s h w"),
        (lambda: AddPhase("smooth")({"image": magnitude(1, 8, 8)}), "expected keys="),
        (lambda: AddPhase("smooth")(-magnitude(8, 8)), "negative"),
        (lambda: AddPhase("nothing")(magnitude(8, 8)), "generator 'nothing'"),
    ):
        with pytest.raises(RephaseError, match=message):
            call()
