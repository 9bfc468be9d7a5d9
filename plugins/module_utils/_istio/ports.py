# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Istio makes of a Service's port: its protocol and its listener. Pure.

The ways are those of istio/istio pkg/config/kube/conversion.go (ConvertProtocol).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict

HTTP = ("http", "http2", "grpc", "grpc-web", "kubernetes.io/h2c", "kubernetes.io/ws")
TLS = ("https", "tls", "kubernetes.io/wss")


def protocol(port: JsonDict) -> str:
    """What Istio takes a port for: by appProtocol, else by the name up to its first dash; nothing means that it is sniffed."""
    name = str(port.get("name") or "").split("-", maxsplit=1)[0].lower()
    known = (*HTTP, *TLS, "tcp", "udp", "mongo", "mysql", "redis")
    return str(port.get("appProtocol") or "").lower() or (name if name in known else "")


def choose_port(service: JsonDict, wanted: int | None) -> JsonDict:
    """The port named by the option, else the only one, else the only one that Istio takes for HTTP."""
    label = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}"
    ports: list[JsonDict] = service["spec"].get("ports") or []
    listed = ", ".join(f"{port['port']} ({port.get('name', 'unnamed')})" for port in ports) or "none"
    if wanted is not None:
        for port in ports:
            if port["port"] == wanted:
                return port
        raise CheckError("no_port", f"{label} has no port {wanted}; it has {listed}. Next: correct the option port.")
    if len(ports) == 1:
        return ports[0]
    http = [port for port in ports if is_http(port)]
    if len(http) == 1:
        return http[0]
    raise CheckError("no_port", f"{label} has several ports ({listed}). Next: say which in the option port.")


def is_http(port: JsonDict) -> bool:
    """Istio's protocol selection for plain HTTP, by appProtocol or the port's name (no sniffing)."""
    protocol = str(port.get("appProtocol") or (port.get("name") or "").split("-")[0]).lower()
    return protocol in ("http", "http2", "grpc", "grpc-web", "kubernetes.io/h2c")


def listener_of(service: JsonDict, port: JsonDict) -> str | None:
    """The listener that Istio makes for a port that is not declared to be HTTP, of a service with an address of its own."""
    address = service["spec"].get("clusterIP")
    return f"{address}_{port['port']}" if address not in (None, "", "None") and not is_http(port) else None


def ports_of(service: JsonDict) -> list[JsonDict]:
    return [port for port in service["spec"].get("ports") or [] if port.get("protocol", "TCP") == "TCP"]
