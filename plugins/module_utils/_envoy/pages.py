# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The admin pages of Envoy that are read for a target. Pure.

Pages: https://www.envoyproxy.io/docs/envoy/latest/operations/admin. Only GET, only the pages named here.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import Target

ADMIN = "http://localhost:15000"
# Envoy drops a request whose headers have more than 60 KiB, the URL among them. A longer expression is split or left out.
MOST_BYTES = 8_000
LISTENERS = "listeners"


def admin_pages(target: Target) -> dict[str, str]:
    """The pages to read for a full view, by name. The filters limit each to a few kilobytes on a large mesh.

    Istio puts all plain HTTP ports of one number into a route configuration named after the port, and a port whose
    protocol is sniffed into one of its own (`service.namespace.svc.domain:port`). A gateway names its own after the port
    that it listens on.
    """
    name = f"{re.escape(target.service)}\\.{re.escape(target.namespace)}\\.svc\\..*"
    routes = f"^http\\.{target.via.listens or '.*'}$" if target.via else f"^({target.port}|{name}:{target.port})$"
    pages = {
        "info": f"{ADMIN}/server_info",
        "routes": _dump("dynamic_route_configs", routes),
        "clusters": _dump("dynamic_active_clusters", f"^outbound\\|.*\\|{name}$"),
    }
    if target.listener and not target.via:
        pages[LISTENERS] = _dump("dynamic_listeners", f"^{re.escape(target.listener)}$")
    return pages


def hosts_page(wanted: str = "") -> str:
    """The hosts of the clusters whose names contain a text (`hosts_filter`); of all clusters without one. An Envoy that is too old for the filter shows
    those of all clusters, so the lines are filtered in the pod as well."""
    return f"{ADMIN}/clusters?filter={quote(re.escape(wanted), safe='')}"


def hosts_filter(target: Target) -> str:
    """The part of a line that marks the target's clusters: `outbound|80|v1|nginx-service.sample.svc.cluster.local::…`."""
    return f"|{target.service}.{target.namespace}.svc."


def wide_pages(namespaces: Sequence[str] | None, ports: Sequence[int], listeners: Sequence[str]) -> dict[str, str]:
    """The pages to read for all services of some namespaces (None: of all) at once, by name.

    `ports` are the services' ports, `listeners` the names (`ip_port`) of those that may not be HTTP, which are asked for in
    batches: `listeners`, `listeners.1` and so on.
    """
    where = _one_of(map(re.escape, namespaces)) if namespaces is not None else None
    name = f"[^.]+\\.{where or '[^.]+'}\\.svc\\..*"
    numbers = _one_of(str(port) for port in sorted(set(ports))) or "[0-9]+"
    pages = {
        "info": f"{ADMIN}/server_info",
        "routes": _dump("dynamic_route_configs", f"^({numbers}|{name}:{numbers})$"),
        "clusters": _dump("dynamic_active_clusters", f"^outbound\\|.*\\|{name}$"),
    }
    for number, batch in enumerate(_batches(re.escape(listener) for listener in sorted(set(listeners)))):
        pages[f"{LISTENERS}.{number}" if number else LISTENERS] = _dump("dynamic_listeners", f"^({'|'.join(batch)})$")
    return pages


def wide_filter(namespaces: Sequence[str] | None) -> str:
    """The part of a line of the hosts page that marks the clusters of many services."""
    return f".{namespaces[0]}.svc." if namespaces is not None and len(namespaces) == 1 else "outbound|"


def _one_of(names: Iterable[str]) -> str | None:
    """An expression for these names, or None if it would be too long: then all are read."""
    first, *more = list(_batches(names)) or [[]]
    return None if more else f"({'|'.join(first)})"


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    """The names in groups, none of which makes a URL too long."""
    batch: list[str] = []
    size = 0
    for name in names:
        length = len(quote(f"|{name}", safe=""))
        if batch and size + length > MOST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += length
    if batch:
        yield batch


def _dump(resource: str, names: str) -> str:
    return f"{ADMIN}/config_dump?resource={resource}&name_regex={quote(names, safe='')}"
