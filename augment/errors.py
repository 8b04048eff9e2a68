"""The errors that a single volume can end with, recorded and never fatal to a build; and those of a whole request."""

from __future__ import annotations

from typing import Literal

from rephase.text import printable

Reason = Literal[
    "missing",  # the file or folder is not there
    "unreadable",  # not what its format says: truncated, corrupt, a text file with a wrong name
    "unsupported",  # valid, but of a kind that no reader here understands
    "ambiguous",  # several series, echoes or frames where one was to be named
    "incomplete",  # missing slices, unequal matrices
    "not_magnitude",  # phase, real, imaginary, field map, derived
    "not_finite",  # NaN or infinity in the pixels
    "negative",  # negative magnitude that the options do not allow
    "too_large",  # needs more memory than the limit
    "mismatch",  # the file contradicts its manifest row (shape, companion file)
    "changed",  # committed before from other bytes or another row
    "timeout",  # took longer than its time limit
    "worker_lost",  # its worker died more often than allowed
    "failed",  # an unexpected error, named in the message
]

RETRY_WITH_MEMORY = "run again with --retry-failed --memory-limit SIZE or fewer --workers"
"""The mend where memory was short; without --retry-failed the volume would be left out."""


_LONGEST = 1000


class RephaseError(ValueError):
    """Base of all errors of this package; the message is for the user as it is."""


class VolumeError(RephaseError):
    """One volume cannot be built.

    The message is one line that says where, what was found, what was expected and how to mend it; `reason` is a stable
    code that a program may read.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        text = printable(message)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
        super().__init__(text)
        self.reason: Reason = reason

    def __reduce__(self) -> tuple[type[VolumeError], tuple[Reason, str]]:
        """Keep the reason when the error travels between processes."""
        return type(self), (self.reason, str(self))


class RequestError(RephaseError):
    """The request as a whole is wrong; nothing was started. The message may have several lines, one a fault."""


def unwritable(root: str, error: OSError) -> RequestError:
    """Say that a corpus cannot be opened or made at a path or URL, and why."""
    return RequestError(
        f"{root}: cannot be written ({_reason(error)}); expected a place where this user may write; choose another "
        "place"
    )


def unreadable(root: str, error: OSError) -> RequestError:
    """Say that a corpus cannot be looked at, and why."""
    return RequestError(f"{root}: cannot be read ({_reason(error)}); expected a corpus that this user may read")


def _reason(error: OSError) -> str:
    return " ".join((error.strerror or str(error) or type(error).__name__).split())
