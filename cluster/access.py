"""Who may reach a cluster that this program starts: TLS with keys of its own, and a token for its web pages.

Whoever can send a message to a Dask scheduler, worker or nanny runs code as its user, and ports of the loopback
interface are open to every user of the machine. So all of them require a certificate, which only this run has.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import dask
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Nanny, Scheduler, Security, Worker
from tornado import web
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router

from rephase.files import user_folder

TOKEN = "rephase.dashboard-token"  # noqa: S105 -- its name in Dask's configuration
"""Key of Dask's configuration (`DASK_REPHASE__DASHBOARD_TOKEN` as a variable) with the token of the web pages."""
_ROLES = ("client", "scheduler", "worker")
_NAME = "rephase"


def run_security() -> Security:
    """Create the keys of one run, in memory: only connections with them are accepted, and all are encrypted.

    As `Security.temporary`, whose certificate is valid from this moment on: it would refuse workers of a machine whose
    clock is behind, and all new connections after the clock was set back. The keys protect a run, not their dates.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, form, plain).decode()
    public = certificate.public_bytes(serialization.Encoding.PEM).decode()
    roles = {f"tls_{role}_{part}": text for role in _ROLES for part, text in (("key", private), ("cert", public))}
    return Security(require_encryption=True, tls_ca_file=public, **roles)


def run_config(security: Security, token: str) -> dict[str, Any]:
    """Return the settings by which processes that Dask's own commands start belong to the run. Keep them secret."""
    found = {TOKEN: token, "distributed.comm.require-encryption": True}
    for role in _ROLES:
        tls = security.get_tls_config_for_role(role)
        found["distributed.comm.tls.ca-file"] = tls["ca_file"]
        found |= {f"distributed.comm.tls.{role}.{part}": tls[part] for part in ("cert", "key")}
    return found


def dashboard_token() -> str:
    """Return the token of Dask's configuration, for programs that collect metrics; else a new one."""
    return str(dask.config.get(TOKEN, None) or secrets.token_urlsafe(24))


class _Closed(web.RequestHandler):
    """Answers whoever is not known: takes the token of the address, as printed, and asks for it otherwise."""

    def initialize(self, gate: _Gate) -> None:
        self._gate = gate

    def prepare(self) -> None:
        """Move the token of the address into a cookie, so that it does not stay in the history of the browser."""
        query = parse_qsl(self.request.query, keep_blank_values=True)
        if self.request.method == "GET" and any(name == "token" and self._gate.accepts(word) for name, word in query):
            rest = urlencode([(name, word) for name, word in query if name != "token"])
            self.set_cookie(self._gate.cookie, self._gate.token, httponly=True, samesite="Lax", path="/")
            path = "/" + self.request.path.lstrip("/")  # `//host` would lead to another machine
            self.redirect(f"{path}?{rest}" if rest else path)
            return
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("open the address with its token, as the command prints it, or send Authorization: Bearer TOKEN\n")


class _Gate(Router):
    """Hands a request with the token to the pages, any other to `_Closed`."""

    def __init__(self, pages: Router, token: str, port: int) -> None:
        self.token = token
        self.cookie = f"rephase-{port}"
        self._pages = pages
        self._closed = web.Application([(r".*", _Closed, {"gate": self})])

    def accepts(self, word: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(word.encode(), self.token.encode())

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> HTTPMessageDelegate | None:  # noqa: ANN401
        """Choose by the header `Authorization: Bearer`, or the cookie."""
        scheme, _, word = request.headers.get("Authorization", "").partition(" ")
        cookie = request.cookies.get(self.cookie)
        known = (scheme.lower() == "bearer" and self.accepts(word)) or (cookie and self.accepts(cookie.value))
        return (self._pages if known else self._closed).find_handler(request, **more)


class _Gated:
    """A Dask server whose web pages ask for the token of Dask's configuration; closed to all without one."""

    def start_http_server(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().start_http_server(*arguments, **options)  # type: ignore[misc]
        server = self.http_server  # type: ignore[attr-defined]
        server.request_callback = _Gate(server.request_callback, dashboard_token(), server.port)


def _private(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a server with a folder for temporary files that nobody else can put files into.

    Dask's own folder has one name for all users of a machine, `/tmp/dask-scratch-space`, and servers import from it.
    """
    return {"local_directory": str(user_folder()), **options}


class GatedScheduler(_Gated, Scheduler):  # type: ignore[misc]
    """A scheduler whose web pages ask for a token."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **_private(options))


class GatedWorker(_Gated, Worker):  # type: ignore[misc]
    """A worker whose `/metrics` asks for a token."""


class GatedNanny(Nanny):  # type: ignore[misc]
    """A nanny of a `GatedWorker`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **_private({"worker_class": GatedWorker, **options}))
