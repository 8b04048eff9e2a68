import numpy as np
import pytest
import torch

from rephase.diffusion.generators import SliceKey
from rephase.diffusion.noise import (
    Stream,
    anchor_key,
    complex_normal,
    complex_normals,
    normal,
    normals,
    random_phasor,
    random_phasors,
    threefry2x32,
    uniform,
    uniforms,
    volume_key,
)

KEY = SliceKey(7, "sub-01_T1", 0, 3)

# known answers of Threefry-2x32-20, published with the Random123 library
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_threefry_gives_the_published_answers(key, counter, expected):
    words = threefry2x32(key, *(torch.tensor([word]).to(torch.int32) for word in counter))
    assert tuple(int(word) & 0xFFFFFFFF for word in words) == expected


def test_uniform_is_uniform_and_a_prefix_of_a_longer_sample():
    values = uniform(KEY, Stream.SOURCE, 100_001)
    assert values.dtype == torch.float32
    assert float(values.min()) >= 0.0 and float(values.max()) < 1.0
    counts = np.histogram(values.numpy(), bins=64, range=(0, 1))[0]
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 25 < chi_square < 120  # 63 degrees of freedom
    assert torch.equal(uniform(KEY, Stream.SOURCE, 10), values[:10])


@pytest.mark.parametrize(
    "other",
    [
        SliceKey(8, "sub-01_T1", 0, 3),
        SliceKey(7, "sub-01_T2", 0, 3),
        SliceKey(7, "sub-01_T1", 1, 3),
        SliceKey(7, "sub-01_T1", 0, 4),
        volume_key(KEY),
    ],
)
def test_every_part_of_the_key_changes_the_noise(other):
    one, two = uniform(KEY, Stream.SOURCE, 4000), uniform(other, Stream.SOURCE, 4000)
    assert abs(float(torch.corrcoef(torch.stack((one, two)))[0, 1])) < 0.06


def test_streams_differ():
    draws = {float(uniform(KEY, stream, 1)[0]) for stream in Stream}
    assert len(draws) == len(Stream)


def test_normal_has_the_moments_of_a_normal():
    values = normal(KEY, Stream.BASELINE, 200_001).double()
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.var()) - 1) < 0.02
    assert abs(float((values**4).mean()) - 3) < 0.1


def test_random_phasor_is_on_the_unit_circle_and_shapes_do_not_share_rows():
    phasor = random_phasor(KEY, Stream.SOURCE, 33, 21)
    assert phasor.shape == (33, 21) and phasor.dtype == torch.complex64
    assert torch.allclose(phasor.abs(), torch.ones(33, 21), atol=1e-6)
    assert float(phasor.mean().abs()) < 0.15


@pytest.mark.parametrize(
    "keys",
    [
        [SliceKey(7, "a", 0, index) for index in (3, 0, 5, 5)],
        [anchor_key(KEY, 2), KEY, volume_key(KEY)],
        [KEY, SliceKey(7, "another", 0, 3), SliceKey(8, "a", 1, 9)],
    ],
)
@pytest.mark.parametrize("count", [1, 6, 231])
def test_sampling_slices_together_gives_what_each_gets_alone(keys, count):
    assert torch.equal(
        uniforms(keys, Stream.SOURCE_NOISE, count),
        torch.stack([uniform(key, Stream.SOURCE_NOISE, count) for key in keys]),
    )
    pairs = (
        (normals(keys, Stream.NOISE, count), [normal(key, Stream.NOISE, count) for key in keys]),
        (
            complex_normals(keys, Stream.SOURCE, count, 3),
            [complex_normal(key, Stream.SOURCE, count, 3) for key in keys],
        ),
        (random_phasors(keys, Stream.SOURCE, 2, count), [random_phasor(key, Stream.SOURCE, 2, count) for key in keys]),
    )
    for together, alone in pairs:
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sampling_slices_together_on_a_gpu_gives_what_each_gets_alone():
    keys = [SliceKey(7, "a", 0, index) for index in range(16)]
    alone = [complex_normal(key, Stream.NOISE, 65, 43, "cuda") for key in keys]
    assert torch.equal(complex_normals(keys, Stream.NOISE, 65, 43, "cuda"), torch.stack(alone))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_bits_on_gpu():
    assert torch.equal(uniform(KEY, Stream.SOURCE, 9999), uniform(KEY, Stream.SOURCE, 9999, "cuda").cpu())
