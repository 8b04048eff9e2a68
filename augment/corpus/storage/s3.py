"""Objects in S3 and compatible stores, through botocore.

botocore was chosen over obstore and s3fs because it works in forked processes such as torch's data loaders (in which
obstore hangs), supports conditional writes (If-None-Match, If-Match), and reads the usual environment variables,
profiles and roles. Its retries end with the headers of a response; here the complete call is retried, body included.
"""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from rephase.corpus.storage.base import Storage
from rephase.errors import RequestError
from rephase.text import install_hint, one_line

try:
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
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
except ImportError:
    raise RequestError(f"s3:// needs botocore, which is not installed; {install_hint('s3')}") from None

TIMEOUT_S = 60.0
"""A request fails after this time without a byte from the server."""

_ATTEMPTS = 6
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 8.0
_SLOWEST_BYTES_PER_S = 50_000
_BLOCK = 1 << 20
_ROOT = re.compile(r"s3://([^/]+)/(.*[^/])/*")

_Result = TypeVar("_Result")
_clients: dict[tuple[object, ...], Any] = {}
_making = threading.Lock()


def _forget_clients() -> None:
    """Drop all clients in a forked process: two processes on one connection would read each other's responses."""
    global _making
    _clients.clear()
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forget_clients)


def _client(timeout_s: float) -> Any:  # noqa: ANN401 - botocore creates the class at run time
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION")
    key = (timeout_s, *map(os.environ.get, names))
    with _making:
        if key not in _clients:
            session = botocore.session.get_session()
            config = Config(
                connect_timeout=min(timeout_s, 10.0),
                read_timeout=timeout_s,
                retries={"mode": "standard", "total_max_attempts": 1},
                max_pool_connections=32,
                tcp_keepalive=True,
                # what was written is read back and compared; not every service supports trailing checksums
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
            _clients[key] = session.create_client("s3", region_name=region, config=config)
        return _clients[key]


class S3Storage:
    """Objects under `s3://bucket/prefix`. It keeps no connection open: it may be forked and pickled.

    Parameters
    ----------
    root
        `s3://bucket/prefix`.
    timeout_s
        A request fails after this time without a byte from the server.

    Raises
    ------
    RequestError
        If the root has no bucket and name, or the configuration of S3 is invalid.
    """

    is_local = False

    def __init__(self, root: str, timeout_s: float = TIMEOUT_S) -> None:
        match = _ROOT.fullmatch(root)
        if match is None:
            raise RequestError(f"{root}: expected s3://BUCKET/NAME; a corpus needs a name inside its bucket")
        self._bucket, self._prefix = match[1], match[2]
        self.root = f"s3://{self._bucket}/{self._prefix}"
        self._timeout_s = timeout_s
        try:
            _client(timeout_s)
        except (BotoCoreError, ValueError) as error:
            raise RequestError(f"{self.root}: {one_line(error)}; correct the AWS_ variables") from None

    def get(self, key: str) -> bytes | None:
        """Read an object; None if it does not exist."""
        try:
            return self._call(key, lambda: b"".join(self._read(key)))
        except FileNotFoundError as error:
            if error.filename == self._url(key):
                return None
            raise

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end if negative); fewer if the object ends earlier."""
        wanted = f"bytes={start}" if start < 0 else f"bytes={start}-{start + length - 1}"
        try:
            return self._call(key, lambda: b"".join(self._read(key, Range=wanted)))[:length]
        except ValueError:  # beyond the end
            return b""

    def holds(self, key: str, data: bytes) -> bool:
        """Read an object back block by block and check that it is `data`."""
        try:
            return self._call(key, lambda: self._is(key, data))
        except FileNotFoundError as error:
            if error.filename == self._url(key):
                return False
            raise

    def put(self, key: str, data: bytes) -> None:
        """Write an object in one request, which is atomic."""
        self._call(key, lambda: self._send("put_object", key, Body=data))

    def put_blocks(self, key: str, blocks: Iterable[bytes]) -> None:
        """Write an object as `put` does: a request starts with its length and checksum."""
        self.put(key, b"".join(blocks))

    def put_if(self, key: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if its version has this tag (None: if it does not exist).

        Returns
        -------
        tag
            Tag of the new version; None, without writing, if another version was found.

        Raises
        ------
        RequestError
            If the service does not support conditional writes.
        """
        try:
            fresh = self._put_if(key, data, tag)
            # Some services ignore the condition silently: a second creation must fail.
            ignored = fresh is not None and tag is None and self._put_if(key, data + b" ", None) is not None
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            ignored = True
        if ignored:
            raise RequestError(
                f"{self.root}: the object store does not support conditional writes (If-None-Match), so two builders "
                "could not be kept apart; expected a service that does; build on a disk and copy the corpus"
            )
        return fresh

    def _put_if(self, key: str, data: bytes, tag: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            return str(self._call(key, lambda: self._send("put_object", key, Body=data, **condition))["ETag"])
        except FileNotFoundError:
            if tag is None:
                raise
            return None
        except FileExistsError:
            # this request may have succeeded before, if its answer was lost and it was sent again
            found = self.get_tagged(key)
            return found[1] if found is not None and found[0] == data else None

    def get_tagged(self, key: str) -> tuple[bytes, str] | None:
        """Read an object and its ETag; None if it does not exist."""

        def read() -> tuple[bytes, str]:
            answer = self._send("get_object", key)
            return answer["Body"].read(), str(answer["ETag"])

        with suppress(FileNotFoundError):
            return self._call(key, read)
        return None

    def append(self, key: str, data: bytes) -> None:
        """Append to an object by rewriting it."""
        self.put(key, (self.get(key) or b"") + data)

    def delete(self, key: str) -> None:
        """Remove an object; do nothing if it does not exist."""
        with suppress(FileNotFoundError):
            self._call(key, lambda: self._send("delete_object", key))

    def delete_if(self, key: str, tag: str) -> None:
        """Remove an object if its version has this tag."""
        found = self.get_tagged(key)
        if found is not None and found[1] == tag:
            self.delete(key)

    def delete_tree(self, key: str) -> None:
        """Remove an object and all objects under it."""
        for inner in dict.fromkeys([key, *self.keys(key)]):
            self.delete(inner)

    def exists(self, key: str) -> bool:
        """Check whether an object exists."""
        try:
            self._call(key, lambda: self._send("head_object", key))
        except FileNotFoundError:
            return False
        return True

    def children(self, prefix: str) -> list[str]:
        """List the names directly under a prefix, sorted; empty if there are none."""
        folder = self._folder(prefix)
        found = set()
        for page in self._pages(folder, Delimiter="/"):
            found |= {entry["Prefix"][len(folder) :].rstrip("/") for entry in page.get("CommonPrefixes", ())}
            found |= {entry["Key"][len(folder) :] for entry in page.get("Contents", ())}
        return sorted(found - {""})

    def children_with(self, prefix: str, name: str) -> list[str]:
        """List the children of a prefix that have an object of this name, sorted, by one listing."""
        folder = self._folder(prefix)
        paths = (key[len(folder) :].split("/") for key in self._all(folder))
        return sorted(path[0] for path in paths if path[1:] == [name])

    def keys(self, prefix: str) -> list[str]:
        """List all objects under a prefix, as keys from the root, sorted."""
        start = len(self._prefix) + 1
        return sorted(key[start:] for key in self._all(self._folder(prefix)))

    def num_bytes(self) -> int:
        """Return the total size of all objects."""
        return sum(entry["Size"] for page in self._pages(self._folder("")) for entry in page.get("Contents", ()))

    def free_bytes(self) -> int | None:
        """Return None: an object store reports no limit."""
        return None

    def staging(self) -> None:
        """Return None: an object store cannot rename."""
        return

    def switch(self, staged: Storage, prefix: str) -> None:
        """Refuse: there is no staging."""
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), self._url(prefix))

    def admit(self, token: str) -> None:
        """Do nothing: an object store drops incomplete uploads, and cannot shut out a writer."""

    def dismiss(self, token: str) -> None:
        """Do nothing."""

    def _folder(self, prefix: str) -> str:
        return f"{self._prefix}/{prefix}".rstrip("/") + "/"

    def _url(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _all(self, folder: str) -> Iterator[str]:
        for page in self._pages(folder):
            yield from (entry["Key"] for entry in page.get("Contents", ()))

    def _pages(self, folder: str, **options: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            arguments = {"Bucket": self._bucket, "Prefix": folder, **options, **more}
            page = self._call("", partial(_client(self._timeout_s).list_objects_v2, **arguments))
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _send(self, operation: str, key: str, **arguments: str | bytes) -> dict[str, Any]:
        call = getattr(_client(self._timeout_s), operation)
        answer: dict[str, Any] = call(Bucket=self._bucket, Key=f"{self._prefix}/{key}", **arguments)
        return answer

    def _read(self, key: str, **arguments: str) -> Iterator[bytes]:
        answer = self._send("get_object", key, **arguments)
        deadline = time.monotonic() + self._timeout_s + answer["ContentLength"] / _SLOWEST_BYTES_PER_S
        for block in answer["Body"].iter_chunks(_BLOCK):
            yield block
            if time.monotonic() > deadline:
                raise ReadTimeoutError(endpoint_url=self._url(key))

    def _is(self, key: str, data: bytes) -> bool:
        position = 0
        for block in self._read(key):
            if data[position : position + len(block)] != block:
                return False
            position += len(block)
        return position == len(data)

    def _call(self, key: str, request: Callable[[], _Result]) -> _Result:
        """Send a request, retrying with growing delays; errors become those of a file system."""
        given = os.environ.get("AWS_MAX_ATTEMPTS", "")
        attempts = max(int(given), 1) if given.isdecimal() else _ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                return request()
            except (BotoCoreError, ResponseParserError, ClientError) as error:
                if attempt == attempts or not is_passing(error):
                    raise as_os_error(error, self.root, self._url(key), attempt) from error
            longest = min(_FIRST_DELAY_S * 2**attempt, _LONGEST_DELAY_S)
            time.sleep(random.SystemRandom().uniform(longest / 2, longest))
        raise AssertionError("unreachable")


_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}


_PASSING_ERRORS = (HTTPClientError, IncompleteReadError, ResponseStreamingError, ResponseParserError)


_DENIED_STATUS = {401, 403}


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def is_passing(error: Exception) -> bool:
    """Check whether a retry of the request may succeed."""
    if isinstance(error, ClientError):
        return _status(error) in _PASSING_STATUS or error.response.get("Error", {}).get("Code") == "RequestTimeout"
    return isinstance(error, _PASSING_ERRORS)


def as_os_error(error: Exception, root: str, url: str, attempts: int) -> Exception:
    """Return the error that a file system would raise, so that callers handle only one type."""
    tried = f", tried {attempts} times" if attempts > 1 else ""
    text = one_line(error)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return PermissionError(errno.EACCES, f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", url)
    if isinstance(error, ReadTimeoutError | ConnectTimeoutError):
        return TimeoutError(errno.ETIMEDOUT, f"no answer from the object store{tried}", url)
    if not isinstance(error, ClientError):
        return ConnectionError(errno.ECONNABORTED, f"{text}{tried}", url)
    code, status = error.response.get("Error", {}).get("Code", ""), _status(error)
    if code == "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, "no such bucket; create it first", root)
    if status == 404:
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if status == 412:
        return FileExistsError(errno.EEXIST, "another version exists", url)
    if status == 416:
        return ValueError(f"{url}: the range lies beyond the end")
    if status in _DENIED_STATUS:
        return PermissionError(errno.EACCES, f"the object store refuses: {code}", url)
    kind = errno.ENOSYS if status in (400, 405, 501) else errno.EIO
    return OSError(kind, f"the object store answers {status} {code}{tried}", url)
