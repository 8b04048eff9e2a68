"""What goes wrong with S3: which of it may pass, and the error of a file system that each stands for."""

from __future__ import annotations

import errno

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError

_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_PASSING_ERRORS = (HTTPClientError, IncompleteReadError, ResponseStreamingError, ResponseParserError)
_DENIED_STATUS = {401, 403}


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def is_passing(error: Exception) -> bool:
    """Tell whether the same request may succeed a moment later."""
    if isinstance(error, ClientError):
        return _status(error) in _PASSING_STATUS or error.response.get("Error", {}).get("Code") == "RequestTimeout"
    return isinstance(error, _PASSING_ERRORS)


def as_os_error(error: Exception, root: str, url: str, attempts: int) -> Exception:
    """Give the error that a file system would raise: what handles those needs to know no other."""
    tried = f", tried {attempts} times" if attempts > 1 else ""
    text = " ".join(str(error).split())
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return PermissionError(errno.EACCES, f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", url)
    if isinstance(error, ReadTimeoutError | ConnectTimeoutError):
        return TimeoutError(errno.ETIMEDOUT, f"the object store does not answer{tried}", url)
    if not isinstance(error, ClientError):
        return ConnectionError(errno.ECONNABORTED, f"{text}{tried}", url)
    code, status = error.response.get("Error", {}).get("Code", ""), _status(error)
    if code == "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, "no such bucket; make it first", root)
    if status == 404:
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if status == 412:
        return FileExistsError(errno.EEXIST, "another version is there", url)
    if status == 416:
        return ValueError(f"{url}: the range lies beyond the end")
    if status in _DENIED_STATUS:
        return PermissionError(errno.EACCES, f"the object store refuses: {code}", url)
    kind = errno.ENOSYS if status in (400, 405, 501) else errno.EIO
    return OSError(kind, f"the object store answers {status} {code}{tried}", url)
