"""Base class of all errors; errors of one volume (recorded, never fatal to a build) and of an entire request."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Literal

from rephase.redaction import without_secrets
from rephase.text import one_line, printable

Reason = Literal[
    "missing",  # the file or folder does not exist
    "unreadable",  # violates its format: truncated, corrupt, a text file with a wrong name
    "unsupported",  # valid, but of a kind that no reader understands
    "ambiguous",  # several series, echoes or frames; the row must select one
    "incomplete",  # missing slices, unequal matrices
    "not_magnitude",  # phase, real, imaginary, field map, derived
    "not_finite",  # NaN or infinity in the pixels
    "processed",  # shows processing that --on-crime refuse does not allow
    "negative",  # negative magnitude that the options do not allow
    "too_large",  # needs more memory than the limit
    "mismatch",  # the file contradicts its manifest row (shape, associated file)
    "changed",  # was committed from other source bytes or another row
    "timeout",  # exceeded its time limit
    "storage",  # the corpus's own disk or object store failed; not held against the volume
    "worker_lost",  # its worker died more often than allowed
    "failed",  # an unexpected error, given in the message
]

RETRY_WITH_MEMORY = "run again with --retry-failed --memory-limit SIZE or fewer --workers"
"""The fix for insufficient memory; without --retry-failed the volume is not retried."""

_LONGEST = 1000


class RephaseError(ValueError):
    """Base of all errors of this package. The message is shown to the user unchanged; it has no secrets of URLs."""

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(str(message)))


class VolumeError(RephaseError):
    """One volume cannot be built.

    The message is one line: where, what was found, what was expected, how to fix it. `reason` is a stable code for
    programs.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        text = printable(message)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
        super().__init__(text)
        self.reason: Reason = reason

    def __reduce__(self) -> tuple[type[VolumeError], tuple[Reason, str]]:
        """Keep the reason when the error is pickled."""
        return type(self), (self.reason, str(self))


class RequestError(RephaseError):
    """The request is invalid; no work was started. The message has one line per problem.

    `data` is what a program may want to know beside the message, as JSON values.
    """

    def __init__(self, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.data = dict(data or {})


class LeaseLostError(RequestError):
    """The lease of a corpus was lost: this builder must not write any more."""

    def __init__(self, root: str) -> None:
        super().__init__(
            f"{root}: another builder took the lease over, or its file was removed; this one stops; if no other is "
            "active, run the same command again to resume"
        )
        self.root = root

    def __reduce__(self) -> tuple[type[LeaseLostError], tuple[str]]:
        """Keep the corpus when the error is pickled."""
        return type(self), (self.root,)


class CorpusStorageError(OSError):
    """The corpus's own disk or object store failed, not the source of a volume."""


def unwritable(root: str, error: OSError) -> RequestError:
    """Return the error for a corpus that cannot be created or written at a path or URL."""
    why = one_line(error.strerror or error)
    return RequestError(f"{root}: cannot be written ({why}); expected a writable path or URL; choose another")


def unreadable(root: str, error: OSError) -> RequestError:
    """Return the error for a corpus that cannot be read."""
    return RequestError(
        f"{root}: cannot be read ({one_line(error.strerror or error)}); expected a corpus that this user may read"
    )


def is_disk_full(error: BaseException) -> bool:
    """Check whether an error reports that a disk, or the user's quota on it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
