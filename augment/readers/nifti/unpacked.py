"""Decompressed copies of long .nii.gz files, kept by a process so that it decompresses each of them once.

A frame of a gzip stream can be reached only by decompressing all before it: without a copy, the time to read every
frame of a file grows with the square of their number. A copy is a temporary file without a name, so nothing of it is
left however the process ends; it is on disk, so it does not count towards a worker's memory.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from rephase.readers.sources import FileKey, file_key

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_COPIES = 2
"""Workers read the frames of a file one after another, so few files are in use at a time."""
SHARE_OF_FREE = 0.125
"""A copy takes at most this part of the free space, since the other workers of a machine make copies too."""

_BLOCK_BYTES = 1 << 20
_lock = threading.Lock()
_copies: OrderedDict[FileKey, int] = OrderedDict()


def open_unpacked(packed: io.BufferedReader, num_bytes: int, most_padding: int) -> io.BufferedReader | None:
    """Open the decompressed copy of an open gzip file, making it if this process has none.

    Parameters
    ----------
    packed
        The open file; its position is not kept.
    num_bytes
        Size of the decompressed contents by its header.
    most_padding
        At most this many bytes more are copied.

    Returns
    -------
    stream
        None if there is too little space for a copy.

    Raises
    ------
    OSError, EOFError, zlib.error
        If the file is damaged or ends early.
    """
    key = file_key(packed)
    with _lock:
        copy = _copies.get(key)
        if copy is None:
            copy = _unpack(packed, num_bytes + most_padding)
            if copy is None:
                return None
            _copies[key] = copy
            while len(_copies) > MOST_COPIES:
                os.close(_copies.popitem(last=False)[1])
        _copies.move_to_end(key)
        return io.BufferedReader(_Shared(os.dup(copy)))


def _unpack(packed: io.BufferedReader, most_bytes: int) -> int | None:
    """Return the descriptor of a copy, which stays open as long as it is kept; None if it does not fit on the disk."""
    folder = tempfile.gettempdir()
    if most_bytes > SHARE_OF_FREE * shutil.disk_usage(folder).free:
        return None
    packed.seek(0)
    with tempfile.TemporaryFile(prefix="rephase-", buffering=0) as copy, gzip.GzipFile(fileobj=packed) as stream:
        left = most_bytes
        while left > 0 and (block := stream.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            try:
                complete = copy.write(block) == len(block)
            except OSError:
                complete = False
            if not complete:  # others have filled the disk meanwhile
                return None
        return os.dup(copy.fileno())


class _Shared(io.RawIOBase):
    """A position of its own in a file that several threads read."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        num = os.preadv(self._descriptor, [buffer], self._at)
        self._at += num
        return num

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
