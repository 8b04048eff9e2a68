"""A scheduler and a worker, started by Dask's own commands, that speak TLS only; others are refused."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask_programs import dask_program, dask_scheduler

from rephase.cluster.connect import ClusterRequest, connect
from rephase.cluster.errors import ClusterError

ROLES = ("scheduler", "worker", "client")


def make_certificates(folder: Path) -> Path:
    """An authority, and a certificate of it for each role, as `openssl` would make them."""
    folder.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("test authority", authority_key, None, authority_key)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(role, key, authority, authority_key)
        (folder / f"{role}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (folder / f"{role}.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return folder


def _certificate(name, key, issuer, signer):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())


def settings(folder: Path) -> dict[str, object]:
    """The configuration that cluster/README.md shows."""
    prefix = "distributed.comm"
    found: dict[str, object] = {f"{prefix}.require-encryption": True, f"{prefix}.tls.ca-file": str(folder / "ca.pem")}
    for role in ROLES:
        found[f"{prefix}.tls.{role}.cert"] = str(folder / f"{role}.pem")
        found[f"{prefix}.tls.{role}.key"] = str(folder / f"{role}.key")
    return found


def expanded(flat: dict[str, object]) -> dict[str, object]:
    """Nested as a YAML file is."""
    found: dict[str, object] = {}
    for key, value in flat.items():
        *parts, last = key.split(".")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return found


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """Address of a scheduler with one worker, and the folder of its certificates."""
    folder = tmp_path_factory.mktemp("tls")
    good = make_certificates(folder / "good")
    (folder / "config").mkdir()
    import yaml

    document = expanded(settings(good))
    (folder / "config" / "distributed.yaml").write_text(yaml.safe_dump(document))
    environment = {"DASK_CONFIG": str(folder / "config")}
    worker = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(folder / "w"))
    with (
        dask_scheduler(folder, "--host", "tls://127.0.0.1", **environment) as (address, _),
        dask_program("worker", address, *worker, log=folder / "worker.log", **environment),
    ):
        yield address, folder


def test_a_client_of_the_same_authority_works(encrypted):
    address, folder = encrypted
    assert address.startswith("tls://127.0.0.1:")
    with dask.config.set(settings(folder / "good")), connect(address, ClusterRequest(timeout=120)) as connection:
        assert connection.num_workers() == 1
        assert connection.client.submit(sum, [1, 2]).result() == 3


def refusal(address):
    with pytest.raises(ClusterError) as caught, connect(address, ClusterRequest(timeout=6)):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_client_of_another_authority_is_refused_in_one_line(encrypted):
    address, folder = encrypted
    other = make_certificates(folder / "other")
    with dask.config.set(settings(other)):
        text = refusal(address)
    assert "certificate" in text and address in text


def test_a_client_without_certificates_is_refused_in_one_line(encrypted):
    address, _ = encrypted
    with dask.config.set({"distributed.comm.tls.ca-file": None}):
        assert "certificates" in refusal(address)


def test_plain_connections_are_refused(encrypted):
    address, _ = encrypted
    assert "no answer" in refusal(address.replace("tls://", "tcp://"))


def test_plain_addresses_are_refused_where_encryption_is_required(encrypted):
    address, folder = encrypted
    with dask.config.set(settings(folder / "good")):
        text = refusal(address.replace("tls://", "tcp://"))
    assert "encryption" in text
