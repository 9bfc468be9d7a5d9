# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records anew what unit tests take for real, from the lab with its sample (`make fixtures`; the next `make site` puts the sample right).

For each way of balancing: the client's Envoy's admin pages, the EndpointSlices, the client pod, and on which pod each session landed.
Besides: objects of the control plane and helm's records of them, as the API server gives them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]
init_plugin_loader([str(ROOT / "collections")])

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import requires  # noqa: E402 - by the loader

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Access  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._cluster.clients import choose_clients  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connect  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._cluster.survey import find_target  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import admin_pages, hosts_filter  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._model import ClientChoice  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession  # noqa: E402 - by the loader

FIXTURES = Path(__file__).parent / "fixtures"
NAMESPACE = "sample"
SESSIONS = [f"sid-{number}" for number in range(1, 41)]
# By the name of the file: the hash of the DestinationRule (None: no rule), and curl's words that carry a session.
STATES: dict[str, tuple[dict[str, Any] | None, str]] = {
    "ring": ({"httpHeaderName": "user-session"}, "-H 'user-session: {sid}' http://nginx-service"),
    "ring_64": ({"httpHeaderName": "user-session", "ringHash": {"minimumRingSize": 64}}, "-H 'user-session: {sid}' http://nginx-service"),
    "maglev": ({"httpHeaderName": "user-session", "maglev": {"tableSize": 65537}}, "-H 'user-session: {sid}' http://nginx-service"),
    "cookie": ({"httpCookie": {"name": "user", "ttl": "60s"}}, "-H 'cookie: user={sid}' http://nginx-service"),
    "query": ({"httpQueryParameterName": "user"}, "'http://nginx-service/?user={sid}'"),
    "source_ip": ({"useSourceIp": True}, "http://nginx-service"),
    "no_rule": (None, "-H 'user-session: {sid}' http://nginx-service"),
}
CONTROL_PLANE = (
    ("deployment", "istiod"),
    ("service", "istiod"),
    ("serviceaccount", "istiod"),
    ("horizontalpodautoscaler", "istiod"),
    ("mutatingwebhookconfiguration", "istio-sidecar-injector"),
    ("validatingwebhookconfiguration", "istio-validator-istio-system"),
    ("customresourcedefinition", "destinationrules.networking.istio.io"),
)


def main() -> None:
    kubeconfig = Path(sys.argv[1])
    kubectl = [str(kubeconfig.parent / "bin/kubectl"), "--kubeconfig", str(kubeconfig)]
    params = {"kubeconfig": str(kubeconfig)}
    access = connect(SimpleNamespace(params=params, check_mode=False, server_side_dry_run=False, requires=requires))
    FIXTURES.mkdir(exist_ok=True)
    for state, (consistent_hash, words) in STATES.items():
        balance_by([*kubectl, "--namespace", NAMESPACE], consistent_hash)
        write(state, recorded_state(access, [*kubectl, "--namespace", NAMESPACE], words))
    write("control_plane", recorded_objects([*kubectl, "--namespace", "istio-system"]))


def write(name: str, content: dict[str, Any]) -> None:
    (FIXTURES / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"recorded {name}\n")


def balance_by(kubectl: list[str], consistent_hash: dict[str, Any] | None) -> None:
    subprocess.run([*kubectl, "delete", "destinationrule", "nginx-destinationrule", "--ignore-not-found"], check=True)
    if consistent_hash is not None:
        rule = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "nginx-destinationrule", "namespace": NAMESPACE},
            "spec": {"host": "nginx-service", "trafficPolicy": {"loadBalancer": {"consistentHash": consistent_hash}}},
        }
        subprocess.run([*kubectl, "create", "-f", "-"], input=json.dumps(rule).encode(), check=True)
    # Istio collects changes for up to a second before it pushes them.
    time.sleep(5)


def recorded_state(access: Access, kubectl: list[str], words: str) -> dict[str, Any]:
    """The sample's test pod answers with the name of the pod it reached."""
    cluster = access.cluster
    target = find_target(cluster, NAMESPACE, "nginx-service", NAMESPACE, None, "/", "GET")
    (client,) = choose_clients(cluster, ClientChoice(NAMESPACE))
    with PodSession(access.configuration, client, 30) as session:
        pages = session.read(admin_pages(target), hosts_filter(target))
        session.end()
    script = "\n".join(f"curl -sS {words.format(sid=sid)}" for sid in SESSIONS)
    said = subprocess.run([*kubectl, "exec", client.pod, "-c", client.container, "--", "sh", "-ec", script], check=True, capture_output=True, text=True)
    address = json.loads(answer(kubectl, "get", "pod", client.pod, "-o", "json"))["status"]["podIP"]
    return {
        "pages": {name: body.decode() for name, body in pages.items()} | {"info": json.dumps(without_extensions(json.loads(pages["info"])))},
        "slices": cluster.endpoint_slices(NAMESPACE, "nginx-service"),
        "client_address": address,
        "landed": dict(zip(SESSIONS, said.stdout.split(), strict=True)),
    }


def without_extensions(info: dict[str, Any]) -> dict[str, Any]:
    """What Envoy was built with is most of the page, and settings of the machine's are in its arguments."""
    node = {name: value for name, value in info["node"].items() if name in ("id", "cluster", "locality")}
    node["metadata"] = {"ISTIO_VERSION": info["node"]["metadata"]["ISTIO_VERSION"]}
    return {name: value for name, value in info.items() if name != "command_line_options"} | {"node": node}


def recorded_objects(kubectl: list[str]) -> dict[str, Any]:
    """Without what no test looks at and nobody wants in a repository: certificates, schemas, what helm packs into its records."""
    objects = {kind: shown(kubectl, kind, name) for kind, name in CONTROL_PLANE}
    objects["customresourcedefinition"]["spec"].pop("versions")
    for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        for hook in objects[kind]["webhooks"]:
            hook["clientConfig"]["caBundle"] = "Y2VydGlmaWNhdGU="
    records = json.loads(answer(kubectl, "get", "secrets", "-l", "owner=helm", "-o", "json"))["items"]
    for record in records:
        record.pop("data")
    return {"objects": objects, "helm": records}


def shown(kubectl: list[str], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer(kubectl, "get", kind, name, "-o", "json"))
    return found


def answer(kubectl: list[str], *words: str) -> str:
    return subprocess.run([*kubectl, *words], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
