import numpy as np
import torch

from rephase.training.simulated.phase import estimate_tissues, simulate_on

MM = (5.0, 2.0, 2.0)


def body() -> torch.Tensor:
    """A bright body with a hole of air in it, `(slice height width)`."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 40), indexing="ij")
    inside = ((x**2 + y**2) < 0.7) & (((x - 0.2) ** 2 + y**2) > 0.05)
    noise = 0.01 * torch.rand(6, 48, 40, generator=torch.Generator().manual_seed(0))
    return torch.where(inside, 100.0, 0.0) * (1.0 + noise)


def test_air_is_where_there_is_no_signal():
    for seed in range(4):
        air, fat = estimate_tissues(body(), MM[1:], np.random.default_rng(seed))
        assert float(air[:, 0, 0].min()) > 0.95 and float(air[3, 24, 10].max()) < 0.05
        assert float(air[3, 24, 23]) > 0.95
        assert float((air + fat).max()) <= 1.0 + 1e-6 and float(fat.min()) >= 0.0


def test_a_dark_vessel_is_not_air_whatever_the_resolution():
    """6 mm across: one pixel of 3 mm and its neighbours, or four of 1.5 mm."""
    for step, side in ((3.0, 2), (1.5, 4), (0.75, 8)):
        magnitude = torch.full((2, 40, 40), 100.0)
        magnitude[:, 20 : 20 + side, 20 : 20 + side] = 0.0
        air, _ = estimate_tissues(magnitude, (step, step), np.random.default_rng(0))
        assert float(air.max()) < 0.05
    thin, _ = estimate_tissues(torch.full((2, 3, 40), 100.0), (0.5, 0.5), np.random.default_rng(0))
    assert float(thin.max()) < 0.05


def test_fat_is_bright_and_near_the_surface_in_most_samples_and_nowhere_in_some():
    magnitude = torch.full((2, 90, 90), 20.0)
    magnitude[:, :60] = 100.0
    magnitude[:, :10] = 0.0
    fats = [estimate_tissues(magnitude, (2.0, 2.0), np.random.default_rng(seed))[1] for seed in range(40)]
    assert all(float(fat[:, 62:].max()) < 0.3 for fat in fats)  # dark
    assert all(float(fat[:, 48:58, 20:70].max()) < 0.1 for fat in fats)  # deeper than 60 mm
    near = [float(fat[:, 13, 40].mean()) for fat in fats]
    assert 0.5 < np.mean(np.array(near) > 0.5) < 0.9


def test_the_magnitude_is_kept_but_for_noise_and_the_phase_is_a_function_of_what_is_drawn():
    magnitude = body()
    one, two = (simulate_on(magnitude, MM, np.random.default_rng(3)) for _ in range(2))
    other = simulate_on(magnitude, MM, np.random.default_rng(4))
    assert len(one) == 6 and all(torch.equal(a.image, b.image) for a, b in zip(one, two, strict=True))
    made = torch.stack([part.image for part in one])
    left = made.abs() / magnitude.clamp(min=1.0)
    assert float(left[magnitude > 50].max()) < 1.1 and float(left[magnitude > 50].median()) > 0.8
    assert float((made.abs() - magnitude)[magnitude < 2].abs().max()) < 10.0
    assert made.dtype == torch.complex64 and one[0].spacing_mm == (2.0, 2.0)
    assert not torch.equal(one[0].image, other[0].image)


def test_phase_is_steepest_beside_air_when_a_field_makes_it():
    """Over draws of a gradient echo: the rim of the hole against the middle of the tissue."""
    magnitude = body()
    rim, middle = [], []
    for seed in range(12):
        made = simulate_on(magnitude, MM, np.random.default_rng(seed))[3]
        if made.te_ms == 0.0:
            continue
        slope = (made.image[1:] * made.image[:-1].conj()).angle().abs()
        rim.append(float(slope[17:19, 23:25].mean()))
        middle.append(float(slope[24:28, 4:9].mean()))
    assert len(rim) > 5 and np.mean(rim) > 1.5 * np.mean(middle)


def test_a_fine_volume_is_coarsened_and_turned():
    magnitude = torch.nn.functional.interpolate(body()[None, None, :, :, :24], size=(48, 48, 36), mode="trilinear")
    shapes = set()
    for seed in range(6):
        made = simulate_on(magnitude[0, 0], (1.0, 1.0, 1.0), np.random.default_rng(seed))
        height, width = made[0].image.shape
        assert all(1.3 <= step <= 2.6 for step in made[0].spacing_mm)
        extents = sorted(round(n * step) for n, step in zip((height, width), made[0].spacing_mm, strict=True))
        shapes.add(tuple(extents))
    assert shapes == {(36, 48), (48, 48)}


def test_slices_without_signal_are_dropped():
    magnitude = body()
    magnitude[0] = 0.0
    assert len(simulate_on(magnitude, MM, np.random.default_rng(0))) == 5
    assert simulate_on(torch.zeros(3, 8, 8), MM, np.random.default_rng(0)) == []
