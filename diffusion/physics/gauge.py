"""The gauge of an image is its global and linear phase, which carry no anatomical information.

Global phase is arbitrary, and linear phase is a shift of the echo in k-space. Both are removed from training targets;
sampling multiplies by a gauge measured on the training data.
"""

from __future__ import annotations

import torch
from torch import Tensor


def estimate_ramp(image: Tensor) -> Tensor:
    """Estimate the linear phase from the complex lag-1 correlation.

    Parameters
    ----------
    image
        Complex images, `(*batch height width)`; weighted by their squared modulus.

    Returns
    -------
    ramp
        float32 `(*batch 2)`: radians per pixel along height and along width.
    """
    rows = (image[..., 1:, :] * image[..., :-1, :].conj()).sum(dim=(-2, -1))
    columns = (image[..., :, 1:] * image[..., :, :-1].conj()).sum(dim=(-2, -1))
    return torch.stack((rows.angle(), columns.angle()), dim=-1)


def ramp_phasor(ramp: Tensor, height: int, width: int) -> Tensor:
    """Return phasors `exp(i (ramp . position))`, position from the centre, complex64 `(*batch height width)`."""
    y = torch.arange(height, dtype=torch.float32, device=ramp.device) - height // 2
    x = torch.arange(width, dtype=torch.float32, device=ramp.device) - width // 2
    angle = ramp[..., 0, None, None] * y[:, None] + ramp[..., 1, None, None] * x
    return torch.polar(torch.ones_like(angle), angle)


def find_gauge(image: Tensor) -> Tensor:
    """Return the linear and global phase of complex images as phasors, complex64 `(*batch height width)`."""
    ramp = ramp_phasor(estimate_ramp(image), *image.shape[-2:])
    flat = image * ramp.conj()
    mean = (flat * flat.abs()).sum(dim=(-2, -1), keepdim=True)
    return ramp * torch.polar(torch.ones_like(mean.real), mean.angle())


def fix_gauge(image: Tensor) -> Tensor:
    """Remove the linear and then the global phase of complex images `(*batch height width)`."""
    return image * find_gauge(image).conj()
