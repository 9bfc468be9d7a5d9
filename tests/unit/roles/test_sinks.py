# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sinks of istio_affinity, without a cluster: a run that reports why it could not look, to servers on this machine."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import ROOT, Ran, clean_environment, run

TOKEN = "t0pSecretTokenOfTheSink"  # noqa: S105 - made up
FILES = ("report.json", "junit.xml", "affinity.prom", "index.html")


@dataclass
class Server:
    """A server that gives each path its statuses in turn, the last one again and again."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    secure: bool = False
    authority: Path = Path()

    def paths(self) -> list[str]:
        return [path for path, _headers, _body in self.requests]


def serve(state: Server) -> ThreadingHTTPServer:

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append((self.path, dict(self.headers.items()), body))
            statuses = next((left for part, left in state.statuses.items() if part in self.path), [201])
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if state.secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(state.authority, state.authority.with_suffix(".key"))
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    state.url = f"127.0.0.1:{listening.server_port}"
    return listening


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """One with a certificate of its own, and one without encryption."""
    certificate = tmp_path / "ca.pem"
    names = ("-subj", "/CN=sink", "-addext", "subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", certificate.with_suffix(".key"))
    run("openssl", "req", "-x509", *key, "-out", certificate, *names).expect()
    both = (Server(secure=True, authority=certificate), Server())
    listening = [serve(one) for one in both]
    yield both
    for one in listening:
        one.shutdown()
        one.server_close()


def play(folder: Path, **variables: Any) -> tuple[Ran, dict[str, Any]]:
    """One run of the role's last part, and its outcome."""
    tasks = [
        {"ansible.builtin.include_role": {"name": "meshops.istio.istio_affinity", "tasks_from": "unreachable"}, "name": "Report"},
        {
            "ansible.builtin.copy": {"content": "{{ istio_affinity_outcome | to_json }}", "dest": str(folder / "outcome.json"), "mode": "0600"},
            "name": "Keep",
            "no_log": True,
        },
    ]
    common = {
        "__istio_affinity_problem": "nobody is there",
        "istio_affinity_report_dir": str(folder / "reports"),
        "istio_affinity_fail": False,
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    nowhere = {"group/kubernetes.core.k8s": {"kubeconfig": str(folder / "none")}}
    (folder / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "prod", "connection": "local", "gather_facts": False, "module_defaults": nowhere, "tasks": tasks}])
    )
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"prod": common | variables}}}))
    environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=str(ROOT / "collections"), ANSIBLE_SHOW_CUSTOM_STATS="1", ANSIBLE_LOCAL_TEMP=str(folder / "tmp"))
    ran = run("ansible-playbook", "-vvv", "--diff", "-i", folder / "hosts.yml", folder / "play.yml", cwd=folder, env=environment, timeout=900).expect(0)
    outcome: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return ran, outcome


def sinks(outcome: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {sink["name"]: (sink["sent"], sink["code"]) for sink in outcome["sinks"]}


def assert_hidden(folder: Path, ran: Ran, *secrets: str) -> None:
    written = [path.read_text(errors="replace") for path in (folder / "reports").rglob("*") if path.is_file()]
    for secret in secrets:
        assert secret not in ran.output
        assert not [text for text in (*written, (folder / "outcome.json").read_text()) if secret in text]


@pytest.mark.slow
def test_every_sink_has_the_report(tmp_path: Path, servers: tuple[Server, Server]):
    """A temporary failure is tried again, a token may end with a line break, a query stays behind the path, and a CA may be one's own."""
    web, gateway = servers
    web.statuses = {"report.json": [503, 429, 201]}
    gateway.statuses = {"/metrics/": [500, 200]}
    headers = {"Authorization": f"Bearer {TOKEN}\n"}
    sink = {"url": f"https://user:{TOKEN}@{web.url}/base/?sig={TOKEN}", "ca_path": str(web.authority), "headers": {"X-Key": f" {TOKEN}"}}
    ran, outcome = play(tmp_path, istio_affinity_sink_http=sink, istio_affinity_sink_pushgateway={"url": f"http://{gateway.url}", "headers": headers})
    assert (sinks(outcome), outcome["problems"]) == ({"http": (True, "sent"), "pushgateway": (True, "sent")}, ["nobody is there"])
    uploads = [f"/base/prod/{name}?sig={TOKEN}" for name in FILES]
    assert web.paths() == [*uploads[:1] * 3, *uploads[1:]]
    assert gateway.paths() == ["/metrics/job/istio_affinity/instance/prod"] * 2
    # The metrics that the Pushgateway receives cover the HTTP server; those in the report directory cover both sinks.
    assert b'istio_affinity_sink_up{cluster="prod",sink="http"} 1\n' in gateway.requests[-1][2]
    metrics = (tmp_path / "reports/prod/latest/affinity.prom").read_text()
    assert [line for line in metrics.splitlines() if "sink_up{" in line] == [
        'istio_affinity_sink_up{cluster="prod",sink="http"} 1',
        'istio_affinity_sink_up{cluster="prod",sink="pushgateway"} 1',
    ]
    assert (web.requests[-1][1]["X-Key"], gateway.requests[-1][1]["Authorization"]) == (TOKEN, f"Bearer {TOKEN}")
    assert [note.split(" sends ")[0] for note in outcome["notes"]] == ["istio_affinity_sink_pushgateway"]
    assert_hidden(tmp_path, ran, TOKEN)


# Minutes: kubernetes.core tries an API server that is not there again and again.
@pytest.mark.full
@pytest.mark.slow
def test_a_sink_that_fails_is_told_by_name_and_not_by_its_secrets(tmp_path: Path, servers: tuple[Server, Server]):
    """Three attempts, or one where another would change nothing; the ConfigMap comes last; and each has its metric."""
    server = servers[1]
    server.statuses = {"report.json": [503], "junit.xml": [403]}
    ran, outcome = play(
        tmp_path,
        istio_affinity_sink_http={"url": f"http://{server.url}?sig={TOKEN}", "headers": {"X-Key": TOKEN}, "files": ["json", "junit"]},
        istio_affinity_sink_pushgateway={"url": f"http://{server.url}", "headers": {"Authorization": f"Bearer {TOKEN}\nmore"}},
        istio_affinity_sink_configmap={"namespace": "verify", "name": "verify"},
    )
    assert sinks(outcome) == dict.fromkeys(("http", "pushgateway", "configmap"), (False, "sink_failed"))
    assert server.paths() == [f"/prod/report.json?sig={TOKEN}"] * 3 + [f"/prod/junit.xml?sig={TOKEN}"]
    _unreachable, http, push, configmap = outcome["problems"]
    assert http.startswith("Upload the reports to the HTTP server: Status code was 503 and not [200, 201, 202, 204]")
    assert push.endswith("Header Authorization of the sink has a line break or another character that HTTP does not allow.")
    assert configmap.startswith("Look for an existing ConfigMap: ")
    metrics = (tmp_path / "reports/prod/latest/affinity.prom").read_text()
    assert [line.rpartition(" ")[2] for line in metrics.splitlines() if line.startswith("istio_affinity_sink_up{")] == ["0"] * 3
    assert_hidden(tmp_path, ran, TOKEN)
