# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records anew what unit tests take for real: Envoy's admin pages, EndpointSlices and pods of the lab's sample (`make fixtures`).

Each state of the sample gets a file; the sample is put right by the next `make site`.
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

from ansible_collections.meshops.istio.plugins.module_utils._envoy import admin_pages, hosts_filter  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._options import Connection  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._session import PodSession  # noqa: E402 - by the loader
from ansible_collections.meshops.istio.plugins.module_utils._survey import ClientChoice, Cluster, choose_clients, find_target  # noqa: E402 - by the loader

FIXTURES = Path(__file__).parent / "fixtures"
NAMESPACE = "sample"
HASH = {"consistentHash": {"httpHeaderName": "user-session"}}
# Each state by the load balancer settings of the DestinationRule (None: no rule).
STATES: dict[str, dict[str, Any] | None] = {
    "ring": HASH,
    "ring_64": {"consistentHash": {"httpHeaderName": "user-session", "ringHash": {"minimumRingSize": 64}}},
    "maglev": {"consistentHash": {"httpHeaderName": "user-session", "maglev": {"tableSize": 65537}}},
    "cookie": {"consistentHash": {"httpCookie": {"name": "user", "ttl": "60s"}}},
    "query": {"consistentHash": {"httpQueryParameterName": "user"}},
    "source_ip": {"consistentHash": {"useSourceIp": True}},
    "no_rule": None,
}


def main() -> None:
    kubeconfig = Path(sys.argv[1])
    kubectl = [str(kubeconfig.parent / "bin/kubectl"), "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE]
    params = {"kubeconfig": str(kubeconfig)}
    connection = Connection(SimpleNamespace(params=params, check_mode=False, server_side_dry_run=False, requires=requires))
    cluster = Cluster(connection.client)
    target = find_target(cluster, NAMESPACE, "nginx-service", NAMESPACE, None, "/", "GET")
    (client,) = choose_clients(cluster, ClientChoice(NAMESPACE))
    FIXTURES.mkdir(exist_ok=True)
    for state, settings in STATES.items():
        if settings is None:
            subprocess.run([*kubectl, "delete", "destinationrule", "nginx-destinationrule"], check=True)
        else:
            rule = {
                "apiVersion": "networking.istio.io/v1",
                "kind": "DestinationRule",
                "metadata": {"name": "nginx-destinationrule", "namespace": NAMESPACE},
                "spec": {"host": "nginx-service", "trafficPolicy": {"loadBalancer": settings}},
            }
            subprocess.run([*kubectl, "replace", "-f", "-"], input=json.dumps(rule).encode(), check=True)
        # Istio collects changes for up to a second before it pushes them.
        time.sleep(5)
        with PodSession(connection.configuration, client, 30) as session:
            pages = session.read(admin_pages(target), hosts_filter(target))
            session.end()
        recorded = {
            "pages": {name: body.decode() for name, body in pages.items()},
            "slices": cluster.endpoint_slices(NAMESPACE, "nginx-service"),
            "service": cluster.service(NAMESPACE, "nginx-service"),
            "client": cluster.pod(NAMESPACE, client.pod),
        }
        (FIXTURES / f"{state}.json").write_text(json.dumps(recorded, indent=1) + "\n")
        sys.stdout.write(f"recorded {state}\n")


if __name__ == "__main__":
    main()
