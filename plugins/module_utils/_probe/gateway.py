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
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import led_to, proxy_view
from ansible_collections.meshops.istio.plugins.module_utils._model import NOWHERE, CheckError, Membership, ProxyView, Target, Via
from ansible_collections.meshops.istio.plugins.module_utils._probe.exec import Exec

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
    return Via(name, port, option["host"], namespace, service)


def read_gateways(cluster: Cluster, configuration: Any, target: Target) -> tuple[tuple[ProxyView | None, ...], Membership]:
    """A view for each ready pod of the gateway's Service, and its endpoints; for a gateway that is only an address, one unknown view."""
    via = target.via
    if via is None or via.service is None or via.namespace is None:
        return (None,), NOWHERE
    # Any port will do: a gateway's pod is an endpoint for all of its ports or for none.
    endpoints = read_membership(cluster, replace(target, namespace=via.namespace, service=via.service, port_name=None))
    # Endpoints written by hand may name no pod.
    pods = {backend.pod for backend in endpoints.ready() if backend.uid}
    if not pods:
        raise CheckError("no_gateway", f"Service {via.namespace}/{via.service} has no ready pod. Next: kubectl -n {via.namespace} get pods.")
    return tuple(_read(configuration, via.namespace, pod, target) for pod in sorted(pods)), endpoints


def _read(configuration: Any, namespace: str, pod: str, target: Target) -> ProxyView | None:
    pages = {name: _get(configuration, namespace, pod, url) for name, url in admin_pages(target).items()}
    other = led_to(target, proxy_view(target, pages))
    if other != target:
        pages["clusters"] = _get(configuration, namespace, pod, admin_pages(other)["clusters"])
    wanted = hosts_filter(other).encode()
    hosts = _get(configuration, namespace, pod, hosts_page())
    pages["hosts"] = b"\n".join(line for line in hosts.split(b"\n") if wanted in line)
    return proxy_view(target, pages)


def _get(configuration: Any, namespace: str, pod: str, url: str) -> bytes:
    command = ["pilot-agent", "request", "GET", url.removeprefix(f"{ADMIN}/")]
    with Exec(configuration, namespace, pod, SIDECAR, command, time.monotonic() + READ_TIMEOUT, stdin=False) as running:
        page = b"\n".join(running.lines())
        # A truncated page counts as missing.
        return page if (running.status or {}).get("status") == "Success" else b""
