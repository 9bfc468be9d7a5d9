# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proxy views of a gateway's pods. Reads only.

The image of a gateway may have neither shell nor curl, so Istio's own pilot-agent reads Envoy's admin port. The pages'
names are arguments of the command, and contain only names of services.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import SIDECAR, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.endpoints import read_membership
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import ADMIN, admin_pages, hosts_filter, hosts_page
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import led_to, view_or_unread
from ansible_collections.meshops.istio.plugins.module_utils._model import NOWHERE, CheckError, Membership, ProxyView, Target, Unread, Via
from ansible_collections.meshops.istio.plugins.module_utils._probe.exec import Exec, exit_reason

READ_TIMEOUT = 30


def find_gateway(cluster: Cluster, option: dict[str, Any], client_namespace: str) -> Via:
    """The gateway of the option `via`. Raises `CheckError` with `bad_option` or `no_gateway`."""
    service, address, namespace = option.get("service"), option.get("address"), option.get("namespace") or "istio-system"
    if (service is None) == (address is None):
        raise CheckError("bad_option", "Option via needs either service or address; give one of them.")
    port = option.get("port") or 80
    if address:
        return Via(address, port, option["host"])
    gateway = cluster.service(namespace, str(service))
    if gateway is None:
        raise CheckError("no_gateway", f"There is no Service {namespace}/{service}. Next: correct the options via.namespace and via.service.")
    ports = [entry["port"] for entry in gateway["spec"].get("ports") or []]
    if port not in ports:
        raise CheckError("no_gateway", f"Service {namespace}/{service} has no port {port}; it has {ports}. Next: correct the option via.port.")
    name = str(service) if namespace == client_namespace else f"{service}.{namespace}"
    port_name = next(entry.get("name") for entry in gateway["spec"]["ports"] if entry["port"] == port)
    return Via(name, port, option["host"], namespace, service, port_name)


def read_gateways(cluster: Cluster, configuration: Any, target: Target) -> tuple[tuple[ProxyView | Unread | None, ...], Membership]:
    """A view for each ready pod of the gateway's Service, and its endpoints; for a gateway that is only an address, one unknown view."""
    via = target.via
    if via is None or via.service is None or via.namespace is None:
        return (None,), NOWHERE
    endpoints = read_membership(cluster, replace(target, namespace=via.namespace, service=via.service, port_name=via.port_name))
    # Endpoints written by hand may name no pod. The port of a pod may be another one than the Service's.
    ports = {backend.pod: int(backend.address.rpartition(":")[2]) for backend in endpoints.ready() if backend.uid}
    if not ports:
        raise CheckError("no_gateway", f"Service {via.namespace}/{via.service} has no ready pod. Next: kubectl -n {via.namespace} get pods.")
    pods = [(pod, replace(target, via=replace(via, listens=ports[pod]))) for pod in sorted(ports)]
    return tuple(_read(configuration, via.namespace, pod, called) for pod, called in pods), endpoints


def _read(configuration: Any, namespace: str, pod: str, target: Target) -> ProxyView | Unread | None:
    pages = {name: _get(configuration, namespace, pod, url) for name, url in admin_pages(target).items()}
    # The hosts follow, once it is known of which service.
    other = led_to(target, view_or_unread(target, pages | {"hosts": b""}))
    if other != target:
        pages["clusters"] = _get(configuration, namespace, pod, admin_pages(other)["clusters"])
    wanted = hosts_filter(other)
    hosts = _get(configuration, namespace, pod, hosts_page(wanted))
    pages["hosts"] = hosts if isinstance(hosts, Unread) else b"\n".join(line for line in hosts.split(b"\n") if wanted.encode() in line)
    return view_or_unread(target, pages)


def _get(configuration: Any, namespace: str, pod: str, url: str) -> bytes | Unread:
    command = ["pilot-agent", "request", "GET", url.removeprefix(f"{ADMIN}/")]
    with Exec(configuration, namespace, pod, SIDECAR, command, time.monotonic() + READ_TIMEOUT, stdin=False) as running:
        page = b"\n".join(running.lines())
        if (running.status or {}).get("status") == "Success":
            return page
        return Unread(f"pilot-agent in pod {namespace}/{pod} ended with {exit_reason(running.status)[:200]}")
