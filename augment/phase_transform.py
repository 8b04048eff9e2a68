"""`AddPhase`: magnitude in, k-space out, as a step of a TorchIO, MONAI or plain PyTorch pipeline, without a corpus."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rephase.api import add_phase
from rephase.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from rephase.diffusion.generators import PhaseGenerator

_PLAIN = {2: "hw", 3: "shw"}
_IN_PIPELINES = {3: "chw", 4: "chws"}


class AddPhase:
    """Sample a phase for magnitude images and return their k-space; another phase at every call.

    The seed of a call is drawn from torch's generator. So every epoch and every worker of a `DataLoader` gets another
    phase, and `torch.manual_seed` makes a run repeatable.

    >>> kspace = AddPhase("smooth")(torch.rand(16, 128, 128))  # doctest: +SKIP
    >>> monai.transforms.Compose([LoadImaged("image"), EnsureChannelFirstd("image"), AddPhase(keys="image")])
    ... # doctest: +SKIP
    >>> torchio.Compose([torchio.RandomFlip(), AddPhase(keys="t1", te_ms=4.9, field_t=3)])  # doctest: +SKIP

    Parameters
    ----------
    generator
        As for `rephase.add_phase`.
    keys
        Entries of a dictionary (MONAI) or subject (TorchIO) with magnitudes, a name or several. The k-space of `image`
        is added as `image_kspace`.
    layout
        A letter per axis: `h` height (readout), `w` width (phase encoding), `s` slice, `c` channels, each of which is a
        volume of its own. Default: `hw` or `shw` of a bare array; `chw` or `chws` of an entry, as in MONAI and TorchIO.
    spacing_mm
        (height, width) or (slice, height, width). Default: `spacing` (TorchIO) or `pixdim` (MONAI) of an entry.
    te_ms, field_t, sequence
        As for `rephase.add_phase`.
    seed
        Seed of every call; None draws one, see above.
    """

    def __init__(
        self,
        generator: str | PhaseGenerator = "field",
        *,
        keys: str | Sequence[str] = (),
        layout: str | None = None,
        spacing_mm: tuple[float, ...] | None = None,
        te_ms: float | None = None,
        field_t: float | None = None,
        sequence: str | None = None,
        seed: int | None = None,
    ) -> None:
        if layout is not None and (not {"h", "w"} <= set(layout) <= set("hwsc") or len(set(layout)) != len(layout)):
            raise RequestError(f"layout {layout!r}: expected the letters h and w, and s or c where there are such axes")
        self._keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self._layout, self._spacing, self._seed = layout, spacing_mm, seed
        self._facts: dict[str, Any] = {
            "generator": generator, "te_ms": te_ms, "field_t": field_t, "sequence": sequence
        }  # fmt: skip

    def __call__(self, sample: Any) -> Any:  # noqa: ANN401 - what the pipeline hands on
        """Return the k-space of an array or tensor; of a mapping, a copy with the k-space of its `keys`.

        Returns
        -------
        kspace
            complex64 tensor of the same shape; centred and orthonormal along height and width.

        Raises
        ------
        RephaseError
            If a magnitude is negative or not finite (add the phase before normalising), or its axes are not those of
            the layout.
        """
        if not isinstance(sample, Mapping):
            return self._kspace(sample, _PLAIN, self._spacing)
        if not self._keys:
            raise RequestError(f"AddPhase: got a mapping with {', '.join(map(str, sample))}; expected keys=...")
        result: Any = copy.copy(sample)
        for key in self._keys:
            image = sample[key]
            result[f"{key}_kspace"] = self._kspace(getattr(image, "data", image), _IN_PIPELINES, self._spacing, image)
        return result

    def _kspace(
        self,
        values: Any,  # noqa: ANN401 - an array or tensor
        layouts: Mapping[int, str],
        spacing_mm: tuple[float, ...] | None,
        image: object = None,
    ) -> Tensor:
        import torch

        from rephase.diffusion.fourier import fft2c

        magnitude = torch.as_tensor(values)
        layout = self._layout or layouts.get(magnitude.ndim)
        if layout is None or len(layout) != magnitude.ndim:
            expected = f"axes {' '.join(layout)}" if layout else " or ".join(" ".join(one) for one in layouts.values())
            raise RequestError(f"AddPhase: the magnitude has shape {tuple(magnitude.shape)}; expected {expected}")
        spacing = _spacing_of(image, layout) if spacing_mm is None else spacing_mm
        order = [layout.index(letter) for letter in "cshw" if letter in layout]
        ordered = magnitude.permute(order)
        volumes = ordered if "c" in layout else ordered[None]
        parts = [self._image(volume.numpy(), spacing) for volume in volumes.float()]
        complex_image = torch.stack(parts) if "c" in layout else parts[0]
        back = [order.index(axis) for axis in range(len(order))]
        return fft2c(complex_image).permute(back)

    def _image(self, volume: Any, spacing: tuple[float, ...] | None) -> Tensor:  # noqa: ANN401 - NumPy's array
        import torch

        seed = int(torch.randint(2**31 - 1, ())) if self._seed is None else self._seed
        return torch.from_numpy(add_phase(volume, spacing_mm=spacing, seed=seed, **self._facts))


def _spacing_of(image: object, layout: str) -> tuple[float, ...] | None:
    """Return the spacing that an image of a pipeline states, as (slice, height, width) or (height, width)."""
    found = getattr(image, "spacing", None)
    found = getattr(image, "pixdim", None) if found is None else found
    axes = [letter for letter in layout if letter != "c"]
    if found is None or len(found) < len(axes):
        return None
    steps = dict(zip(axes, (float(step) for step in found), strict=False))
    return tuple(steps[letter] for letter in "shw" if letter in steps)
