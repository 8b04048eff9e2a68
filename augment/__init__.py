"""Synthetic k-space corpora from magnitude-only MRI archives.

The names below are the public interface. Each is loaded when it is first used, so `import rephase` loads neither torch
nor Dask. A wing of the package must not have the name of a function here: once imported, it would hide the function.
"""

from __future__ import annotations

# isort: off
from rephase import startup as _startup  # noqa: F401 -- first: it decides where the others come from

# isort: on
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rephase import metrics, transforms
    from rephase.api import add_phase, build, build_phases, export, plan, repair, report, status, verify
    from rephase.data.fastmri_slices import FastMRISlices
    from rephase.data.kspace_slices import KSpaceSlices
    from rephase.data.masks import ColumnMask, MaskedSlices
    from rephase.data.mix import mix
    from rephase.data.samplers import BucketBatchSampler, VolumeSampler
    from rephase.data.stream import KSpaceStream
    from rephase.diffusion.fourier import fft2c, ifft2c
    from rephase.errors import RephaseError
    from rephase.phase_transform import AddPhase
    from rephase.readers.registry import read_volume
    from rephase.readers.volume import Volume

    __version__: str

__all__ = [
    "AddPhase",
    "BucketBatchSampler",
    "ColumnMask",
    "FastMRISlices",
    "KSpaceSlices",
    "KSpaceStream",
    "MaskedSlices",
    "RephaseError",
    "Volume",
    "VolumeSampler",
    "__version__",
    "add_phase",
    "build",
    "build_phases",
    "export",
    "fft2c",
    "ifft2c",
    "metrics",
    "mix",
    "plan",
    "read_volume",
    "repair",
    "report",
    "status",
    "transforms",
    "verify",
]

_MODULES = {
    "rephase.api": ("add_phase", "build", "build_phases", "export", "plan", "repair", "report", "status", "verify"),
    "rephase.data.fastmri_slices": ("FastMRISlices",),
    "rephase.data.kspace_slices": ("KSpaceSlices",),
    "rephase.data.masks": ("ColumnMask", "MaskedSlices"),
    "rephase.data.mix": ("mix",),
    "rephase.data.samplers": ("BucketBatchSampler", "VolumeSampler"),
    "rephase.data.stream": ("KSpaceStream",),
    "rephase.diffusion.fourier": ("fft2c", "ifft2c"),
    "rephase.errors": ("RephaseError",),
    "rephase.phase_transform": ("AddPhase",),
    "rephase.readers.registry": ("read_volume",),
    "rephase.readers.volume": ("Volume",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version(__name__)
    elif name in ("metrics", "transforms"):
        value = import_module(f"rephase.{name}")
    elif name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, for completion in notebooks."""
    return sorted({*globals(), *__all__})
