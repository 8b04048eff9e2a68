"""An S3 server on loopback, and a proxy that injects faults by a schedule."""

from __future__ import annotations

import http.client
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

BUCKET = "bucket"
FAULTS = ("503", "500 but done", "429", "reset", "lost answer", "cut", "stall", "slow")
"""`cut` closes the connection in the middle of an object, `lost answer` after the request was executed."""

_LONGEST_STALL_S = 300.0
"""Upper limit of a stall; the clients of the tests time out earlier."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}

Answer = tuple[int, list[tuple[str, str]], bytes]
Schedule = Callable[[int, str, str], str]
"""(number of the request, method, path) -> its fault, empty for none."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Start moto's S3 server with an empty bucket in a new process; yield its endpoint."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.communicate()  # closes its standard input, and so ends it


def seeded(seed: int, rate: float, faults: tuple[str, ...] = FAULTS) -> Schedule:
    """Return a schedule of faults at this rate; at most three in a row per object, so that retries succeed."""
    random = Random(seed)  # noqa: S311 -- a schedule, not a secret
    faulty: dict[str, int] = {}

    def schedule(number: int, method: str, path: str) -> str:
        fault = random.choice(faults) if random.random() < rate else ""
        if fault and faulty.get(path, -2) >= 3:
            fault = ""
        faulty[path] = faulty.get(path, 0) + 1 if fault else 0
        return fault

    return schedule


class Proxy:
    """A proxy between client and server. `seen` lists (method, path, fault) of every request."""

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.schedule: Schedule = lambda number, method, path: ""
        self.strip: tuple[str, ...] = ()
        self.seen: list[tuple[str, str, str]] = []
        self.one_at_a_time = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def faults(self) -> set[str]:
        return {fault for _, _, fault in self.seen if fault}

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Forward a request; one at a time, since moto's conditional write is not atomic."""
        left_out = {"expect", "connection", *self.strip}
        kept = {key: value for key, value in headers.items() if key.lower() not in left_out}
        with self.one_at_a_time:
            connection = http.client.HTTPConnection(self.target)
            try:
                connection.request(method, path, body, kept)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Suppress the log."""

    def _serve(self) -> None:
        owner = self.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = owner.schedule(len(owner.seen), self.command, self.path)
        owner.seen.append((self.command, self.path, fault))
        match fault:
            case "503" | "429":
                self._answer((int(fault), [], b"<Error><Code>SlowDown</Code></Error>"))
            case "reset":
                self._reset()
            case "stall":
                self.connection.settimeout(_LONGEST_STALL_S)
                with suppress(OSError):
                    self.connection.recv(1)  # until the client has had enough, and closes
                self._reset()
            case _:
                self._forward(fault, body)

    def _forward(self, fault: str, body: bytes) -> None:
        answer = self.owner.forward(self.command, self.path, self.headers, body)
        if fault == "500 but done":
            self._answer((500, [], b"<Error><Code>InternalError</Code></Error>"))
        elif fault == "lost answer" or (fault == "cut" and len(answer[2]) < 2):
            self._reset()
        else:
            self._answer(answer, fault)

    def _answer(self, answer: Answer, fault: str = "") -> None:
        status, headers, body = answer
        self.send_response_only(status)
        for key, value in headers:
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(key, value)
        length = {key.lower(): value for key, value in headers}.get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self._reset()
        elif fault == "slow":
            step = max(len(body) // 5, 1)
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                time.sleep(0.02)
        else:
            self.wfile.write(body)

    def _reset(self) -> None:
        """Reset the connection as a dead machine does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815

    def finish(self) -> None:
        """Close; the client may have disconnected."""
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        """Serve requests until the client disconnects, which it may do at any time."""
        with suppress(OSError):
            super().handle()


def _main() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", f"/{BUCKET}")
    connection.getresponse().read()
    print(f"http://{host}:{port}", flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    _main()
