"""Checks of the entries of a configuration, before anything is made of them: numbers of the right type and range."""

from __future__ import annotations

import math

LARGEST = 2**31 - 1


def check_whole(config: object, least: int, *names: str, most: int = LARGEST) -> None:
    """Refuse entries that are no whole numbers from `least` to `most`.

    Raises
    ------
    ValueError
        With the name, the value, and what was expected.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= most:
            small = most == LARGEST and not (type(value) is int and value > most)
            span = f"{least} or more" if small else f"{least} to {most}"
            raise ValueError(f"{name} = {repr(value)[:60]}: expected a whole number of {span}")


def check_number(config: object, *names: str, above: float = -math.inf, least: float = 0.0, most: float = 1e30) -> None:
    """Refuse entries that are no numbers from `least` to `most`, or not above `above`.

    Raises
    ------
    ValueError
        With the name, the value, and what was expected.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) not in (int, float) or not least <= value <= most or value <= above:
            span = f"above {above:g}" if above >= least else f"from {least:g}"
            raise ValueError(f"{name} = {repr(value)[:60]}: expected a number {span} to {most:g}")
