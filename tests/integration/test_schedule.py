# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""istio_schedule on hosts for real: a timer on a machine of its own, and Prometheus that reads what its runs leave. test_schedule_job.py has the CronJob."""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine_support import Machine, machine, wait_for
from warm_python import warm_python

from harness import BIN, PACKAGES, ROOT, clean_environment, debian_root, run

if TYPE_CHECKING:
    from affinity_support import Mesh

SCHEDULE = "meshops.istio.schedule"
CALLBACKS = Path(__file__).parent / "callback_plugins"
COLLECTIONS = "/opt/collections"
TIMER = "istio-affinity-timer"
DATA = "/var/lib/istio-schedule"
TEXTFILES = "/var/lib/prometheus/node-exporter"


class Webhook(http.server.BaseHTTPRequestHandler):
    """Keeps what it's sent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.told.append((self.path, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        """Not on the test's output."""


@dataclass
class Hosts:
    """A machine with a timer that verifies the lab and tells a webhook and a command."""

    box: Machine
    mesh: Mesh
    told: list[tuple[str, dict[str, Any]]]
    secret: str
    python: str
    variables: dict[str, Any]
    said: str = ""

    def play(self, *words: str, codes: tuple[int, ...] = (), hosts: dict[str, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Run schedule.yml there; each result as the recorder wrote it."""
        inventory = {"schedulers": {"hosts": hosts or {"timer": self.variables}, "vars": self.common()}}
        self.box.write("/etc/schedulers.yml", yaml.safe_dump(inventory))
        self.box.write("/srv/record", "")
        settings = {
            "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS,
            "ANSIBLE_HOME": "/srv/ansible",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "recorder",
            "ISTIO_RECORD": "/srv/record",
        }
        self.said = self.box(BIN / "ansible-playbook", "--inventory=/etc/schedulers.yml", *words, SCHEDULE, env=settings, codes=codes, timeout=300).output
        return [json.loads(line) for line in self.box.read("/srv/record").splitlines()]

    def common(self) -> dict[str, Any]:
        return {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": self.python,
            "istio_schedule_ansible_playbook": str(BIN / "ansible-playbook"),
            "istio_schedule_random_delay": 0,
            "istio_schedule_environment": {"ANSIBLE_COLLECTIONS_PATH": COLLECTIONS},
            "istio_schedule_inventory": "/etc/clusters.yml",
        }

    def start(self, *codes: int) -> None:
        self.box("systemctl", "start", TIMER, codes=codes, timeout=200)

    def verdict(self) -> str:
        report = json.loads(self.box.read(f"{DATA}/{TIMER}/reports/lab/latest/report.json"))
        (service,) = report["services"]
        return f"{service['status']}: {service['verdict']}"


def _changed(results: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """What was changed where, those of check mode as what they stand for."""
    names = {(line["host"], line["task"].rpartition(": ")[2]) for line in results if line.get("result", {}).get("changed")}
    return {(host, name.removesuffix(" (check mode)")) for host, name in names}


def _failures(results: list[dict[str, Any]]) -> dict[str, str]:
    return {line["host"]: line["result"]["msg"] for line in results if line.get("status") == "failed"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, installed_collection: Path, mesh: Mesh) -> Iterator[Hosts]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    server.told = []  # type: ignore[attr-defined]  # the handler finds it there
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secret = secrets.token_hex(8)
    service = {"namespace": mesh.namespace, "service": "nginx-service", "key": {"type": "header", "name": "user-session"}}
    timer = {
        "istio_schedule_name": TIMER,
        "istio_schedule_calendar": "*:*:0/10",
        "istio_schedule_textfile_dir": TEXTFILES,
        "istio_schedule_on_failure_webhook": f"http://127.0.0.1:{server.server_port}/{secret}",
        "istio_schedule_on_failure_command": ["sh", "-c", f'echo "$(id -un) $ISTIO_SCHEDULE_STATUS: $ISTIO_SCHEDULE_REASON" >>{DATA}/{TIMER}/told'],
        "istio_schedule_variables": {
            "istio_affinity_namespaces": [mesh.namespace],
            "istio_affinity_services": [service],
            "istio_affinity_profile": "quick",
            "istio_affinity_rate": 200,
        },
    }
    with machine(tmp_path_factory.mktemp("machine")) as box:
        box.add(installed_collection, COLLECTIONS)
        box("mkdir", "-p", TEXTFILES)
        box.write("/etc/kubeconfig", mesh.kubeconfig.read_text())
        box.write("/etc/clusters.yml", yaml.safe_dump({"all": {"hosts": {"lab": {"istio_cluster_kubeconfig": "/etc/kubeconfig"}}}}))
        # The machine's own Python, warm. Of .venv it sees Ansible alone.
        box("mkdir", "-p", "/opt/ansible", "/srv/python")
        box("ln", "-s", PACKAGES / "ansible", "/opt/ansible/ansible")
        with warm_python("/srv/python", *box.enter, "/usr/bin/python3", env=clean_environment(PYTHONPATH="/opt/ansible")) as python:
            yield Hosts(box, mesh, server.told, secret, python, timer)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def scheduled(hosts: Hosts) -> Hosts:
    """With the schedule in place: what check mode foretold happened, and no secret was shown."""
    predicted = _changed(hosts.play("--check", "--diff"))
    assert not hosts.box.has("/etc/istio-schedule")
    done = _changed(hosts.play("--diff", "-vvv"))
    assert hosts.secret not in hosts.said
    assert predicted == done
    assert {("timer", "Start the timer"), ("timer", "Link the metrics for node_exporter")} <= done
    return hosts


def test_systemd_accepts_the_units(scheduled: Hosts):
    seen = scheduled.box("systemd-analyze", "verify", f"{TIMER}.service", f"{TIMER}.timer")
    assert not seen.output.strip()


def test_the_timer_runs_verify_as_its_own_user(scheduled: Hosts):
    box = scheduled.box
    latest = f"{DATA}/{TIMER}/reports/lab/latest/report.json"
    wait_for("A report of the timer's run", lambda: box.has(latest), 300)
    box("systemctl", "stop", f"{TIMER}.timer")
    wait_for("The run's end", lambda: box("systemctl", "is-active", TIMER, codes=(0, 3)).stdout.strip() == "inactive", 300)
    assert scheduled.verdict() == "green: passed"
    assert box("stat", "--format=%U", latest).stdout.strip() == TIMER
    assert box("systemctl", "show", "--property=Result,ExecMainStatus", TIMER).stdout.split() == ["Result=success", "ExecMainStatus=0"]
    # Nobody else reads its settings; the shell of that user is none.
    assert box("stat", "--format=%U %G %a", f"/etc/istio-schedule/{TIMER}/config.json").stdout.strip() == f"root {TIMER} 640"
    assert box("getent", "passwd", TIMER).stdout.strip().endswith("/nologin")
    assert scheduled.told == []
    # What happened, without a word of Ansible's.
    lines = [json.loads(line) for line in box.read(f"{DATA}/{TIMER}/run.log").splitlines()]
    assert [(line.get("cluster"), line.get("outcome"), line.get("status")) for line in lines[:2]] == [("lab", "passed", None), (None, None, 0)]
    assert box("stat", "--format=%U %a", f"{DATA}/{TIMER}/run.log").stdout.strip() == f"{TIMER} 640"


def test_alerts_fire_and_clear_in_prometheus(scheduled: Hosts):
    """The rule is broken and mended on the lab; run, webhook, node_exporter and Prometheus see it."""
    with _prometheus(scheduled.box) as firing:
        assert firing() == set()
        scheduled.mesh.patch(
            "destinationrule", "nginx-destinationrule", {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": None, "simple": "RANDOM"}}}}
        )
        try:
            scheduled.start(1)
        finally:
            scheduled.mesh.converge()
        assert scheduled.verdict() == "red: failed"
        wait_for("The alert", lambda: "IstioAffinityBroken" in firing(), 60)
        assert firing() == {"IstioAffinityBroken"}
        ((path, body),) = scheduled.told
        assert path == f"/{scheduled.secret}"
        assert (body["schedule"], body["status"]) == (TIMER, 2)
        assert body["text"].endswith(f"a service is broken: its sessions do not stick. Reports: {DATA}/{TIMER}/reports")
        assert scheduled.box.read(f"{DATA}/{TIMER}/told").splitlines() == [f"{TIMER} 2: a service is broken: its sessions do not stick"]
        scheduled.start()
        assert scheduled.verdict() == "green: passed"
        wait_for("The alert's end", lambda: not firing(), 60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _prometheus(box: Machine) -> Iterator[Callable[[], set[str]]]:
    """Debian's Prometheus and node_exporter on the machine, with the rules as they are shipped; yields what tells the firing alerts."""
    programs = debian_root("prometheus", "prometheus-node-exporter") / "usr/bin"
    exporter, port = _free_port(), _free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "monitoring/prometheus-rules.yml")],
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}],
    }
    box.write("/etc/prometheus.yml", yaml.safe_dump(config))
    collectors = ("--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={TEXTFILES}")
    # As the user nobody, who must be able to read the metrics.
    box("install", "--mode=755", *(programs / name for name in ("prometheus", "prometheus-node-exporter")), "/usr/bin")
    listen = f"--web.listen-address=127.0.0.1:{exporter}"
    box("systemd-run", "--unit=node-exporter", "--uid=nobody", "/usr/bin/prometheus-node-exporter", listen, *collectors)
    words = ("--config.file=/etc/prometheus.yml", "--storage.tsdb.path=/srv/prometheus", f"--web.listen-address=127.0.0.1:{port}")
    box("systemd-run", "--unit=prometheus", "/usr/bin/prometheus", *words)

    def ask(query: str) -> list[dict[str, Any]]:
        seen = run("curl", "--silent", "--get", "--data-urlencode", f"query={query}", f"http://127.0.0.1:{port}/api/v1/query").stdout
        return json.loads(seen)["data"]["result"] if seen.startswith("{") else []

    wait_for("The first scrape", lambda: bool(ask('istio_affinity_verdict{verdict="passed", service="nginx-service"} == 1')), 60)
    assert not ask("node_textfile_scrape_error != 0")
    assert ask('node_textfile_mtime_seconds{file=~"(.*/)?istio-affinity[^/]*[.]prom"}')
    # What the rules ask for is there.
    for name in ("istio_affinity_status", "istio_affinity_last_conclusive_timestamp_seconds", "istio_affinity_last_run_timestamp_seconds"):
        assert ask(name), name
    assert ask("istio_affinity_cluster_up == 1")
    assert ask("istio_schedule_last_run_exit_status == 0")
    yield lambda: {one["metric"]["alertname"] for one in ask('ALERTS{alertstate="firing"}')}
    box("systemctl", "stop", "prometheus", "node-exporter")


def test_overlapping_runs_exclude_each_other(scheduled: Hosts):
    before = scheduled.box.read(f"{DATA}/{TIMER}/metrics/affinity.prom")
    scheduled.box("flock", f"{DATA}/{TIMER}/lock", "systemctl", "start", TIMER)
    assert "skipped, because another run is active" in scheduled.box("journalctl", f"--unit={TIMER}", "--lines=20", "--no-pager").stdout
    assert scheduled.box.read(f"{DATA}/{TIMER}/metrics/affinity.prom") == before


def test_a_killed_run_is_told(scheduled: Hosts):
    box = scheduled.box
    scheduled.told.clear()
    box("systemctl", "start", "--no-block", TIMER)
    wait_for("The run", lambda: "ansible-playbook" in box("systemctl", "status", "--no-pager", TIMER, codes=(0, 3)).stdout, 60)
    box("systemctl", "kill", "--kill-who=main", "--signal=KILL", TIMER)
    wait_for("The webhook", lambda: bool(scheduled.told), 60)
    ((_path, body),) = scheduled.told
    assert (body["status"], body["reason"]) == (137, "it was killed by signal 9")
    wait_for("Its end", lambda: "failed" in box("systemctl", "is-active", TIMER, codes=(0, 3)).stdout)
    assert "ansible-playbook" not in box("ps", "-u", TIMER, "-o", "args", codes=(0, 1)).stdout


def test_a_second_run_corrects_what_differs_and_follows_no_link(scheduled: Hosts):
    """The timer was stopped. The user of the runs has put a link in place of a directory of its own, to have root give it another one."""
    box, reports = scheduled.box, f"{DATA}/{TIMER}/reports"
    box("install", "--directory", "--mode=755", "/etc/roots")
    box("runuser", f"--user={TIMER}", "--", "sh", "-c", f"mv {reports} {reports}.kept && ln -s /etc/roots {reports}")
    assert _changed(scheduled.play()) == {("timer", "Start the timer")}
    assert box("stat", "--format=%U %G %a", "/etc/roots").stdout.strip() == "root root 755"
    box("systemctl", "stop", f"{TIMER}.timer", TIMER)
    box("runuser", f"--user={TIMER}", "--", "sh", "-c", f"rm {reports} && mv {reports}.kept {reports}")


Cases = dict[str, tuple[dict[str, Any], str]]


def _stop(scheduled: Hosts, cases: Cases) -> None:
    """Each of these hosts is refused, and nothing was changed."""
    base = {"istio_schedule_name": "other"}
    results = scheduled.play(codes=(2,), hosts={name: base | variables for name, (variables, _said) in cases.items()})
    said = _failures(results)
    assert {name: text for name, (_variables, text) in cases.items() if text not in said[name]} == {}
    assert {name for name in cases if "Nothing was changed." not in said[name]} <= {"private"}
    assert {host for host, _task in _changed(results)} <= {"private"}
    assert not scheduled.box.has("/etc/systemd/system/other.timer")


def test_stops_before_any_change(scheduled: Hosts):
    box = scheduled.box
    box.write("/etc/systemd/system/somebodys.service", "# theirs\n")
    box.write("/etc/private.yml", "{}", "0600")
    cases: Cases = {
        "theirs": ({"istio_schedule_name": "somebodys"}, "/etc/systemd/system/somebodys.service: already there, and not written by this role."),
        # What only the user of the runs can tell: an inventory that it may not read.
        "private": ({"istio_schedule_inventory": "/etc/private.yml"}, "as user other"),
    }
    _stop(scheduled, cases)


@pytest.mark.full
def test_stops_before_any_change_for_every_option(scheduled: Hosts):
    hidden = "/tmp/hidden.yml"  # noqa: S108 - where nothing of a schedule may be
    scheduled.box.write(hidden, "{}")
    scheduled.box("ln", "-sf", "/var/lib", "/srv/link")
    scheduled.box("install", "--directory", "--owner=nobody", "/srv/nobodys")
    cases: Cases = {
        "name": ({"istio_schedule_name": "Bad Name"}, "istio_schedule_name is 'Bad Name'"),
        "inventory": ({"istio_schedule_inventory": ""}, "istio_schedule_inventory is ''; it must be the absolute path"),
        "noinventory": ({"istio_schedule_inventory": "/etc/nowhere.yml"}, "there is no /etc/nowhere.yml."),
        "replaceable": ({"istio_schedule_data_dir": "/srv/nobodys/data"}, "/srv/nobodys can be changed by users other than root."),
        "hidden": ({"istio_schedule_inventory": hidden}, f"{hidden}: the service has its own temporary directory"),
        "noprogram": ({"istio_schedule_ansible_playbook": "none"}, "there is no program none."),
        "nopython": ({"istio_schedule_python": "/usr/bin/true-not"}, "there is no program /usr/bin/true-not."),
        "calendar": ({"istio_schedule_calendar": "sometimes"}, "systemd cannot parse 'sometimes'"),
        "textfiles": ({"istio_schedule_textfile_dir": "/nowhere"}, "there is no directory /nowhere; is node_exporter installed?"),
        "root": ({"istio_schedule_user": "root"}, "istio_schedule_user is 'root'"),
        "webhook": ({"istio_schedule_on_failure_webhook": "file:///etc/passwd"}, "must begin with http:// or https://"),
        "reports": ({"istio_schedule_variables": {"istio_affinity_report_dir": "/x"}}, "which this role sets itself"),
        "link": ({"istio_schedule_data_dir": "/srv", "istio_schedule_name": "link"}, "/srv/link is a link."),
        "temporary": ({"istio_schedule_config_dir": "/tmp/config"}, "/tmp can be changed by users other than root."),  # noqa: S108 - it must be refused
    }
    _stop(scheduled, cases)


def test_a_missing_directory_is_told(scheduled: Hosts):
    box = scheduled.box
    scheduled.told.clear()
    box("mv", f"{DATA}/{TIMER}", f"{DATA}/away")
    box("systemctl", "start", TIMER, codes=(1,))
    box("mv", f"{DATA}/away", f"{DATA}/{TIMER}")
    ((_path, body),) = scheduled.told
    assert (body["status"], body["reason"]) == (71, "its directory is missing, full or not writable")


def test_is_removed(scheduled: Hosts):
    """Nothing is left but the reports, and with purge, of a schedule beside it, nothing at all."""
    box = scheduled.box
    purged = {"istio_schedule_name": "purged", "istio_schedule_purge": "true"}
    box("useradd", "--system", "--no-create-home", "--comment=purged, made by meshops.istio.istio_schedule", "purged")
    box("mkdir", "-p", f"{DATA}/purged/reports/lab")
    both = {"timer": scheduled.variables | {"istio_schedule_purge": "false"}, "purged": purged}
    # As typed on a command line, where everything is a string.
    absent = "--extra-vars=istio_schedule_state=absent istio_schedule_timeout=3000"
    predicted = _changed(scheduled.play("--check", absent, hosts=both))
    done = _changed(scheduled.play(absent, hosts=both))
    assert done == predicted
    assert {task for host, task in done if host == "purged"} == {"Delete the schedule", "Delete the user that the role created"}
    for path in (f"/etc/istio-schedule/{TIMER}", f"/etc/systemd/system/{TIMER}.timer", f"/etc/systemd/system/{TIMER}.service", f"{TEXTFILES}/{TIMER}.prom"):
        assert not box.has(path), path
    assert "could not be found" in box("systemctl", "status", f"{TIMER}.timer", codes=(4,)).output
    assert box.has(f"{DATA}/{TIMER}/reports/lab/latest/report.json")
    box("getent", "passwd", TIMER)
    assert not box.has(f"{DATA}/purged")
    box("getent", "passwd", "purged", codes=(2,))
