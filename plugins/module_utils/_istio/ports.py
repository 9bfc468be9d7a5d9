# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol and the listener that Istio derives from a Service's port. Pure.

The rules are those of istio/istio pkg/config/kube/conversion.go (ConvertProtocol).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, JsonDict

HTTP = ("http", "http2", "http_proxy", "grpc", "grpc-web")
TLS = ("https", "tls")
OTHERS = ("tcp", "udp", "mongo", "mysql", "redis")
# Kubernetes' own names; Istio knows them as an appProtocol only.
KUBERNETES = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}
# Ports that Istio never sniffs, because the server sends first: SMTP, DNS, MySQL, MongoDB.
NEVER_SNIFFED = (25, 53, 3306, 27017)


def protocol(port: JsonDict) -> str:
    """The protocol of a port, from appProtocol, else from its name up to the first dash; empty if Envoy sniffs it."""
    text = str(port.get("appProtocol") or port.get("name") or "").lower()
    if text in KUBERNETES and port.get("appProtocol"):
        return KUBERNETES[text]
    word = "grpc-web" if text.startswith("grpc-web") else text.partition("-")[0]
    if word in (*HTTP, *TLS, *OTHERS):
        return word
    return "tcp" if port.get("port") in NEVER_SNIFFED else ""


def is_http(port: JsonDict) -> bool:
    """Whether a port is declared as plain HTTP of any version."""
    return protocol(port) in HTTP


def choose_port(service: JsonDict, wanted: int | None) -> JsonDict:
    """The port that the option names, else the only one, else the only one that is declared as HTTP."""
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
    raise CheckError("no_port", f"{label} has several ports ({listed}). Next: name one in the option port.")


def listener_of(service: JsonDict, port: JsonDict) -> str | None:
    """The listener that Istio creates for a port that is not declared as HTTP, of a service with its own address."""
    address = service["spec"].get("clusterIP")
    return f"{address}_{port['port']}" if address not in (None, "", "None") and not is_http(port) else None


def tcp_ports(service: JsonDict) -> list[JsonDict]:
    """The ports that carry TCP, not UDP or SCTP."""
    return [port for port in service["spec"].get("ports") or [] if port.get("protocol", "TCP") == "TCP"]
