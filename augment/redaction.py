"""Remove what must not be passed on from a text: paths, which name people and wards, and secrets of URLs.

`redact` is used wherever a text is stored or shown to others: the run log, the report, the dashboard, metrics.
`without_secrets` is used for every message; a path may stand in those of the terminal, whose reader has typed it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from rephase.text import is_url, printable

HIDDEN = "***"
_URL = re.compile(r"([A-Za-z][\w+.-]*://)([^\s'\"<>]*)")
_LOGIN = re.compile(r"(?<![\w/])[^\s/:@'\"(]+:[^\s/@'\"]+@(?=[\w\[])")
_FIELD = re.compile(
    r"(?i)\b((?:x-amz|x-goog)-[\w-]+|sig|signature|password|passwd|secret|access_?key(?:_?id)?)=[^\s&'\"]+"
)
_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")
_PATH = re.compile(r"(?:\b[A-Za-z][\w+.-]+://|(?<![\w.])[A-Za-z]:\\|(?<![\w.<*])~?/)[^\s;,'\"()]+")
_LONGEST = 900
"""A longer text may have been cut in the middle of a path."""
_MOST_NAMES = 20_000
_SHORTEST = 3
_WORDS = {
    "and", "array", "axis", "column", "columns", "complex", "data", "dataset", "dcm", "dicom", "echo", "expected",
    "file", "files", "folder", "frame", "hdf5", "header", "image", "images", "kspace", "magnitude", "manifest",
    "mri", "nii", "not", "npy", "phase", "pixels", "row", "scan", "segmentation", "series", "slice", "slices",
    "source", "the", "volume", "volumes",
}  # fmt: skip
"""Names of files and folders that say nothing, and that messages use."""


def without_secrets(text: str) -> str:
    """Hide user names, passwords and parameters of URLs, such as signatures, also where only part of a URL is shown."""
    if "://" in text:
        text = _URL.sub(lambda match: match[1] + _bare(match[2]), text)
    if "@" in text:
        text = _LOGIN.sub(f"{HIDDEN}@", text)
    return _FIELD.sub(rf"\1={HIDDEN}", text) if "=" in text else text


def _bare(rest: str) -> str:
    """Hide the secrets of a URL without its scheme; a password may hold any character, so the last `@` counts."""
    place, mark, query = rest.partition("?")
    login, at, place = place.rpartition("@")
    hidden = f"{HIDDEN}@" if at and login else ""
    return f"{hidden}{place}{f'?{HIDDEN}' if mark and query else mark}"


def redact(text: str, locations: Iterable[str], instead: str) -> str:
    """Return a message without any piece of these paths and URLs, and without secrets, other paths and UIDs.

    Parameters
    ----------
    text
        One line.
    locations
        The paths and URLs that it may be about.
    instead
        Replaces a location, such as `row 3`.
    """
    if len(text) >= _LONGEST:
        return f"{instead}: the message is too long to be shown without paths; --log-paths logs it"
    names: set[str] = set()
    for location in locations:
        for word in _secret_values(location):
            text = text.replace(word, HIDDEN)
        for form, place in _forms(location):
            text = _replace(text, form, place, instead)
        names |= _names(location)
    for name in sorted(names, key=len, reverse=True):
        if name in text:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "[name]", text)
    return _UID.sub("[UID]", _PATH.sub("[path]", without_secrets(text)))


def _secret_values(location: str) -> list[str]:
    """Return the login and the parameters of a URL, in the forms in which libraries show them, the longest first."""
    if not is_url(location):
        return []
    rest, _, query = location.partition("?")
    login = rest.rpartition("://")[2].rpartition("@")[0]
    found = {login, query, *login.split(":", 1), *(value for _, value in parse_qsl(query)), urlsplit(location).fragment}
    found |= {change(word) for word in found for change in (unquote, quote)}
    return sorted((word for word in found if len(word) >= _SHORTEST), key=len, reverse=True)


def _forms(location: str) -> Iterator[tuple[str, str]]:
    """Yield the ways in which a message may show a location or a folder above it, and the path that each means."""
    local = location.removeprefix("file://")
    if is_url(local):
        bare = without_secrets(location)
        yield from ((form, "") for form in dict.fromkeys((location, bare, location.partition("?")[0])))
        return
    for place in (local, os.path.realpath(local), *map(str, PurePath(local).parents)):
        if place in ("", "/", "."):
            continue
        shown = (place, printable(place), " ".join(place.split()), printable(" ".join(place.split())))
        for form in dict.fromkeys((*shown, repr(place)[1:-1], quote(place), unquote(place))):
            yield form, place


def _replace(text: str, form: str, place: str, instead: str) -> str:
    start = 0
    while (start := text.find(form, start)) >= 0:
        end = _end(text, start + len(form), place)
        text = text[:start] + instead + text[end:]
        start += len(instead)
    return text


def _end(text: str, end: int, place: str) -> int:
    """Return where a path ends that begins with a folder: any character may be in the names of what is below it."""
    if text[end : end + 1] not in ("/", "\\", ".", "-", "_"):
        return end
    for last in range(len(text), end, -1):
        try:
            if place and os.path.lexists(place + text[end:last]):
                return last
        except ValueError:  # a NUL character
            break
    stop = text.find("; expected", end)
    colon = text.rfind(": ", end, stop if stop >= 0 else len(text))
    return colon if colon >= 0 else len(text)


def _names(location: str) -> set[str]:
    """Return the names of a location, of the folders above it and of the files below it, with and without suffix."""
    local = location.removeprefix("file://")
    parts = set(re.split(r"[/\\]", unquote(local.partition("?")[0].rpartition("@")[2]) if is_url(local) else local))
    if not is_url(local):
        for _, folders, files in os.walk(local):
            parts.update(folders, files)
            if len(parts) > _MOST_NAMES:
                break
    parts |= {part.partition(".")[0] for part in parts}
    parts |= {change(part) for part in parts for change in (printable, lambda word: " ".join(word.split()))}
    return {part for part in parts if len(part) >= _SHORTEST and part.lower() not in _WORDS}
