"""The smallest network with every part, as a Python object and as TOML."""

from __future__ import annotations

from rephase.diffusion.networks.unet import NetworkConfig

TINY = NetworkConfig(channels=(4, 8), blocks=1, patch=2, groups=2, embedding=8)

TINY_TOML = """
[network]
channels = [4, 8]
blocks = 1
groups = 2
embedding = 8
"""
