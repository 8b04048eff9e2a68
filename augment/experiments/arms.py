"""The arms of an experiment: what each network is trained on, as written on the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from rephase.diffusion.phases import generated_phases
from rephase.errors import RequestError

REAL, ZERO, ANGLE, NATURAL, MAGNITUDE_ONLY = "real", "zero", "angle", "natural", "magnitude-only"
CONTROLS = (ANGLE, NATURAL, MAGNITUDE_ONLY)
"""Arms that every table has, whether asked for or not."""
REQUIRED = (ZERO, REAL, *CONTROLS)
"""Arms without which nothing is measured: the sanity gate compares the first two."""
GRAMMAR = (
    f"a phase ({', '.join(generated_phases())}), real, real@P (P %% of the subjects), real@P+PHASE, "
    f"pretrain:PHASE>real@P, {', '.join(CONTROLS)}"
).replace("%%", "%")
_REAL = re.compile(r"real(?:@(?P<percent>\d+(?:\.\d+)?)(?:\+(?P<with>[a-z-]+))?)?")
_PRETRAINED = re.compile(r"pretrain:(?P<start>[a-z-]+) > (?P<end>real(?:@\d+(?:\.\d+)?)?)")


@dataclass(frozen=True)
class Arm:
    """What a network is trained on.

    Attributes
    ----------
    label
        As written, but with spaces around `>`: without them, a redacted output would take it for a password.
    corpus
        Name of the synthetic corpus, a phase or `natural`; None for real data alone.
    real_percent
        Share of the subjects with real data, above 0 to 100; 0 without real data. With a corpus also the share of real
        slices.
    start
        The arm whose weights are fine-tuned; None if training starts from random weights.
    random_angle
        Each slice is multiplied by one random angle.
    magnitude_only
        The network is given magnitudes only.
    """

    label: str
    corpus: str | None = None
    real_percent: float = 0.0
    start: Arm | None = None
    random_angle: bool = False
    magnitude_only: bool = False

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that the arm reads, also those of the arm that it starts from."""
        own = ((REAL,) if self.real_percent else ()) + ((self.corpus,) if self.corpus else ())
        return tuple(dict.fromkeys((*own, *(self.start.corpora if self.start else ()))))


def parse_arm(text: str) -> Arm:
    """Parse one arm.

    Raises
    ------
    RequestError
        If it is none; the message lists what is.
    """
    text = label_of(text)
    if text in generated_phases():
        return Arm(text, text)
    if text == NATURAL:
        return Arm(text, NATURAL)
    if text == ANGLE:
        return Arm(text, ZERO, random_angle=True)
    if text == MAGNITUDE_ONLY:
        return Arm(text, real_percent=100.0, magnitude_only=True)
    if (found := _REAL.fullmatch(text)) is not None:
        percent = float(found["percent"] or 100)
        if not 0 < percent <= 100:
            raise RequestError(f"arm {text}: {percent:g} % of the subjects; expected more than 0 and at most 100")
        mixed = found["with"]
        if mixed is not None and percent == 100:
            raise RequestError(f"arm {text}: 100 % are real; expected less, since the others are {mixed}")
        return Arm(text, None if mixed is None else _synthetic(mixed, text), percent)
    if (found := _PRETRAINED.fullmatch(text)) is not None:
        end = parse_arm(found["end"])
        return Arm(text, None, end.real_percent, start=parse_arm(_synthetic(found["start"], text)))
    near = difflib.get_close_matches(text, (*generated_phases(), REAL, *CONTROLS), n=1)
    raise RequestError(f"arm {text!r}: unknown; " + (f"did you mean {near[0]}?" if near else f"expected {GRAMMAR}"))


def label_of(text: str) -> str:
    """Return the label of an arm as written."""
    return re.sub(r"\s*>\s*", " > ", text.strip())


def parse_arms(texts: Iterable[str]) -> list[Arm]:
    """Parse arms and add those of `REQUIRED`; the order is that given, arms that repeat are taken once.

    Raises
    ------
    RequestError
        If one is unknown; all problems, one per line.
    """
    arms, problems = [], []
    for text in dict.fromkeys((*texts, *REQUIRED)):
        try:
            arms.append(parse_arm(text))
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(problems))
    return arms


def _synthetic(name: str, text: str) -> str:
    if name in (*generated_phases(), NATURAL):
        return name
    known = ", ".join((*generated_phases(), NATURAL))
    raise RequestError(f"arm {text}: {name!r} is not generated; expected one of {known}")
