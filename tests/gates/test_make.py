# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What make promises: no other cluster by accident, and a kubeconfig only of a lab that answers."""

from __future__ import annotations

import base64
import datetime
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness import ROOT, Ran, clean_environment, run

SHOW = 'show: ; @echo "cluster=$(own_cluster) arguments=$(arguments)"; env'


def test_targets_see_no_other_cluster():
    foreign = {"KUBECONFIG": "/elsewhere", "K8S_AUTH_CONTEXT": "production", "HELM_KUBECONTEXT": "production", "INVENTORY": "production.yml", "ARGS": "-v"}
    seen = run("make", "--eval", SHOW, "show", env=clean_environment(**foreign)).expect().stdout
    assert "cluster= arguments=\n" in seen
    assert not [line for line in seen.splitlines() if line.startswith(("KUBECONFIG=", "K8S_AUTH_", "HELM_KUBE"))]
    assert "\nISTIO_LAB_CACHE=/" in seen


def test_another_cluster_is_typed():
    assert "cluster=mine.yml arguments=--check" in run("make", "--eval", SHOW, "show", "INVENTORY=mine.yml", "ARGS=--check").expect().stdout


def test_help_names_every_public_target():
    told = run("make").expect().stdout
    assert all(f"make {target} " in told for target in ("site", "test", "quick", "uninstall", "lab", "lab-down", "lab-purge", "kubeconfig"))


# -- make -s kubeconfig --


def _certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return path


class _Server(http.server.ThreadingHTTPServer):
    status = 200


class _Answer(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _ask(cache: Path) -> Ran:
    return run("make", "-s", "kubeconfig", env=clean_environment(ISTIO_LAB_CACHE=str(cache), HTTPS_PROXY="http://127.0.0.1:9"))


def _write_kubeconfig(cache: Path, port: int, certificate: bytes) -> Path:
    path = cache / "lab/kubeconfig"
    path.parent.mkdir(parents=True, exist_ok=True)
    authority = base64.b64encode(certificate).decode()
    path.write_text(f"apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: https://localhost:{port}\n  name: lab\n")
    return path


def _refused(asked: Ran) -> str:
    assert asked.rc != 0
    assert asked.stdout == ""
    (line,) = asked.stderr.splitlines()
    return line


def test_kubeconfig_of_a_lab_that_answers(api_server: _Server, tmp_path: Path):
    path = _write_kubeconfig(tmp_path, api_server.server_port, (tmp_path / "certificate.pem").read_bytes())
    asked = _ask(tmp_path).expect()
    assert asked.stdout == f"{path}\n"
    assert asked.stderr == ""


def test_kubeconfig_of_a_lab_that_is_not_ready(api_server: _Server, tmp_path: Path):
    api_server.status = 500
    _write_kubeconfig(tmp_path, api_server.server_port, (tmp_path / "certificate.pem").read_bytes())
    assert "/readyz answers 500" in _refused(_ask(tmp_path))


def test_kubeconfig_of_something_else_on_the_port(api_server: _Server, tmp_path: Path):
    (tmp_path / "other").mkdir()
    _write_kubeconfig(tmp_path, api_server.server_port, _certificate(tmp_path / "other").read_bytes())
    assert "does not answer" in _refused(_ask(tmp_path))


def test_kubeconfig_without_a_lab(tmp_path: Path):
    assert "there is no lab" in _refused(_ask(tmp_path))
    _write_kubeconfig(tmp_path, 9, _certificate(tmp_path).read_bytes())
    assert "does not answer" in _refused(_ask(tmp_path))
    assert not (ROOT / "lab/kubeconfig").exists()
