# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The admin pages of Envoy that are read for a target. Pure.

Pages: https://www.envoyproxy.io/docs/envoy/latest/operations/admin. Only GET, only the pages named here.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import Target

ADMIN = "http://localhost:15000"


def admin_pages(target: Target) -> dict[str, str]:
    """The pages to read for a full view, by name. The filters limit each to a few kilobytes on a large mesh.

    Istio puts all plain HTTP ports of one number into a route configuration named after the port, and a port whose
    protocol is sniffed into one of its own (`service.namespace.svc.domain:port`).
    """
    name = f"{re.escape(target.service)}\\.{re.escape(target.namespace)}\\.svc\\..*"
    # A gateway names its route configurations after its own ports, which are not the Service's.
    routes = quote("^https?\\..*" if target.via else f"^({target.port}|{name}:{target.port})$", safe="")
    clusters = quote(f"^outbound\\|.*\\|{name}$", safe="")
    pages = {
        "info": f"{ADMIN}/server_info",
        "routes": f"{ADMIN}/config_dump?resource=dynamic_route_configs&name_regex={routes}",
        "clusters": f"{ADMIN}/config_dump?resource=dynamic_active_clusters&name_regex={clusters}",
    }
    if target.listener and not target.via:
        pages["listeners"] = _dump("dynamic_listeners", f"^{re.escape(target.listener)}$")
    return pages


def hosts_page() -> str:
    """All hosts of all clusters as text; Envoy cannot filter it (envoy#14702), so the pod does, by `hosts_filter`."""
    return f"{ADMIN}/clusters"


def hosts_filter(target: Target) -> str:
    """The part of a line that marks the target's clusters: `outbound|80|v1|nginx-service.sample.svc.cluster.local::…`."""
    return f"|{target.service}.{target.namespace}.svc."


def wide_pages(namespaces: Sequence[str] | None, ports: Sequence[int], listeners: Sequence[str]) -> dict[str, str]:
    """The pages to read for all services of some namespaces (None: of all) at once, by name.

    `ports` are the services' ports, `listeners` the names (`ip_port`) of those that may not be HTTP.
    """
    where = f"({'|'.join(map(re.escape, namespaces))})" if namespaces is not None else "[^.]+"
    name = f"[^.]+\\.{where}\\.svc\\..*"
    numbers = f"({'|'.join(str(port) for port in sorted(set(ports)))})"
    pages = {
        "info": f"{ADMIN}/server_info",
        "routes": _dump("dynamic_route_configs", f"^({numbers}|{name}:{numbers})$"),
        "clusters": _dump("dynamic_active_clusters", f"^outbound\\|.*\\|{name}$"),
    }
    if listeners:
        pages["listeners"] = _dump("dynamic_listeners", f"^({'|'.join(re.escape(listener) for listener in sorted(set(listeners)))})$")
    return pages


def wide_filter(namespaces: Sequence[str] | None) -> str:
    """The part of a line of the hosts page that marks the clusters of many services."""
    return f".{namespaces[0]}.svc." if namespaces is not None and len(namespaces) == 1 else "outbound|"


def _dump(resource: str, names: str) -> str:
    return f"{ADMIN}/config_dump?resource={resource}&name_regex={quote(names, safe='')}"
