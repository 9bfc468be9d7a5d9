# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How Istio matches host names, and which proxies a rule is for. Pure.

The rules are those of istio/istio pilot/pkg/model/config.go (ResolveShortnameToFQDN) and pkg/config/host/name.go.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ansible_collections.meshops.istio.plugins.module_utils._model import JsonDict

# The annotation that says to which namespaces a Service is visible.
EXPORT_TO = "networking.istio.io/exportTo"
# The default domain of Kubernetes, for a wildcard without the mesh's domain.
DEFAULT_DOMAIN = "cluster.local"


def full_name(host: str, namespace: str, fqdn: str) -> str:
    """A rule's host as Istio completes it: only a name without a dot gets the rule's namespace and the mesh's domain."""
    return host if "." in host or host == "*" else f"{host}.{namespace}.{fqdn.partition('.')[2].partition('.')[2]}"


def covers(host: str, namespace: str, fqdn: str) -> bool:
    """Whether the host of a rule in this namespace matches a service."""
    name = full_name(host, namespace, fqdn)
    return name in (fqdn, "*") or (name.startswith("*") and fqdn.endswith(name[1:]))


def names_service(host: str, namespace: str, service: tuple[str, str], domains: Collection[str] = ()) -> bool:
    """Whether the author of a rule in this namespace meant a service, given by namespace and name.

    These are the hosts that Istio matches (`covers`), and the two forms of Kubernetes' DNS that Istio does not complete
    (`name.namespace`, `name.namespace.svc`): such a rule is meant for the service, though it may be without effect.
    `domains` are the mesh's. Without them, a host that is a `.svc` name brings its own.
    """
    start = f"{service[1]}.{service[0]}"
    if host in (start, f"{start}.svc"):
        return True
    known = domains or (host.partition(".svc.")[2] or DEFAULT_DOMAIN,)
    return any(covers(host, namespace, f"{start}.svc.{domain}") for domain in known)


def exported(body: JsonDict, namespace: str) -> bool:
    """Whether a rule is for proxies of a namespace."""
    to = (body.get("spec") or {}).get("exportTo") or ["*"]
    return "*" in to or namespace in to or ("." in to and body["metadata"].get("namespace") == namespace)


def selects(selector: JsonDict | None, labels: JsonDict) -> bool:
    wanted = (selector or {}).get("matchLabels") or (selector or {}).get("labels") or {}
    return all(labels.get(name) == value for name, value in wanted.items())


# -- what a proxy is given --


def hidden_from(service: JsonDict, namespace: str, sidecars: Iterable[JsonDict] | None) -> str | None:
    """Why the proxies of a namespace may have nothing of a service, where those of other namespaces have; None if no reason is
    known. `sidecars` are those of the namespace and of the root namespace, None without permission to read them."""
    own, name = service["metadata"]["namespace"], service["metadata"]["name"]
    exported_to = [part.strip() for part in ((service["metadata"].get("annotations") or {}).get(EXPORT_TO) or "*").split(",")]
    if not ("*" in exported_to or namespace in exported_to or ("." in exported_to and own == namespace)):
        return f"its annotation {EXPORT_TO} ({', '.join(exported_to)}) does not name namespace {namespace}; inspect it from a client pod in one that it names"
    if own == namespace:
        return None
    if sidecars is None:
        return f"a Sidecar may hide it from namespace {namespace}, and Sidecars could not be read; inspect it from a client pod in namespace {own}"
    hiding = next((entry for entry in sidecars if not imports(entry, own, name)), None)
    if hiding is None:
        return None
    label = f"{hiding['metadata']['namespace']}/{hiding['metadata']['name']}"
    return f"Sidecar {label} does not import it; inspect it from a client pod in namespace {own}"


def imports(sidecar: JsonDict, namespace: str, name: str) -> bool:
    """Whether the egress hosts (`namespace/host`) of a Sidecar contain a Service, at any port; without any, all are imported."""
    egress = (sidecar.get("spec") or {}).get("egress") or []
    hosts = [str(host).partition("/") for entry in egress for host in entry.get("hosts") or []]
    near = {"*", namespace, *(["."] if sidecar["metadata"]["namespace"] == namespace else [])}
    return not egress or any(place in near and (host == "*" or names_service(host, namespace, (namespace, name))) for place, _slash, host in hosts)
