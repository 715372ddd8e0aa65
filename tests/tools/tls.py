"""A server that speaks TLS, with certificates made for the occasion."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from market_data_pipeline.store.embedded import EmbeddedServer, free_port

needs_tls = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="the embedded server has no TLS, and there is no redis-server on PATH"
)


@dataclass(frozen=True)
class Files:
    """An authority, a certificate it signed, and its key."""

    ca: Path
    cert: Path
    key: Path


def make_files(folder: Path, name: str, *identities: str) -> Files:
    """A new authority and a certificate of it for ``identities``."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert(*identities)
    files = Files(folder / f"{name}-ca.pem", folder / f"{name}-cert.pem", folder / f"{name}-key.pem")
    authority.cert_pem.write_to_path(files.ca)
    issued.cert_chain_pems[0].write_to_path(files.cert)
    issued.private_key_pem.write_to_path(files.key)
    return files


@contextmanager
def tls_server(folder: Path, files: Files, *extra: str, clients: str = "no") -> Iterator[tuple[EmbeddedServer, int]]:
    """A redis-server with TLS, and its TLS port. ``clients``: whether a client must show a certificate (of the server's
    own authority)."""
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(files.cert), "--tls-key-file", str(files.key)]
    options += ["--tls-ca-cert-file", str(files.ca), "--tls-auth-clients", clients, *extra]
    with EmbeddedServer(None, "redis-server", *options) as running:
        yield running, port
