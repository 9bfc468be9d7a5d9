# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reads of the API server that the collection needs.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, JsonDict

# The module reports a missing library before any of these is used.
with contextlib.suppress(ImportError):
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

SIDECAR = "istio-proxy"
ISTIO_NAMESPACE = "istio-system"
TIMEOUT = (5, 30)
# An API server behind an aggregated API may know whole objects only.
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
# Of a log, in bytes. What is beyond is not identified.
MOST_LOG = 32 * 1024 * 1024
# Objects in one response to a list call, as kubectl asks for.
AT_ONCE = 500
# What an account is not told; other errors end the run.
UNREADABLE = ("forbidden", "not_served")
# The kinds that decide how a request is routed and balanced: plural -> kind, all in networking.istio.io/v1
# but for EnvoyFilter, which Istio still serves as v1alpha3.
RULES = {
    "destinationrules": ("DestinationRule", "v1"),
    "virtualservices": ("VirtualService", "v1"),
    "sidecars": ("Sidecar", "v1"),
    "envoyfilters": ("EnvoyFilter", "v1alpha3"),
}
# What an explanation reads: these, and the hosts that Istio knows besides the Services.
EXPLAINING = RULES | {"serviceentries": ("ServiceEntry", "v1")}
# plural -> API group and version; what is not here is in the core group
GROUPS = {plural: ("networking.istio.io", version) for plural, (_kind, version) in EXPLAINING.items()} | {"endpointslices": ("discovery.k8s.io", "v1")}


class Cluster:
    """The reads of the API server, as plain dictionaries, with every failure as a `CheckError`.

    They use paths and the dynamic client: importing the generated API classes of the Python client (release 37) takes a second.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def service(self, namespace: str, name: str) -> JsonDict | None:
        return self._read(_core(namespace, "services", name), f"get services in namespace {namespace}")

    def pod(self, namespace: str, name: str) -> JsonDict | None:
        return self._read(_core(namespace, "pods", name), f"get pods in namespace {namespace}")

    def pods(self, namespace: str, selector: str) -> list[JsonDict]:
        return self.listed("pods", namespace, selector)

    def services(self, namespace: str) -> list[JsonDict]:
        return self.listed("services", namespace)

    def endpoint_slices(self, namespace: str, service: str) -> list[JsonDict]:
        return self.endpoint_slices_now(namespace, service)[0]

    def endpoint_slices_now(self, namespace: str, service: str) -> tuple[list[JsonDict], str | None]:
        """The slices, and the time of the API server's response (the header Date)."""
        slices, now = self._listed("endpointslices", namespace, f"kubernetes.io/service-name={service}")
        return slices, now

    def listed(self, plural: str, namespace: str | None, selector: str = "") -> list[JsonDict]:
        """All objects of a kind in a namespace, or with None in all namespaces: the intended rule may be in another one."""
        return self._listed(plural, namespace, selector)[0]

    def _listed(self, plural: str, namespace: str | None, selector: str) -> tuple[list[JsonDict], str | None]:
        """All objects in pages, and the time of the last one. Raises `CheckError` with `not_served` if the API server does not
        have the kind: that is not the same as none of it."""
        path, permission = _list(plural, namespace)
        items: list[JsonDict] = []
        token: str | None = None
        limit: int | None = AT_ONCE
        while True:
            try:
                answer = self._answer(path, permission, label_selector=selector or None, limit=limit, _continue=token)
            except CheckError as error:
                if error.code != "expired" or token is None:
                    raise
                # The list changed for longer than the API server remembers: once more, in one piece.
                items, token, limit = [], None, None
                continue
            if answer is None:
                raise CheckError("not_served", f"The API server does not serve {path}, so {plural} are unknown. Next: check the version of their CRD.")
            body = _json_of(answer, permission)
            items += body.get("items") or []
            token = (body.get("metadata") or {}).get("continue") or None
            if token is None:
                return items, answer.headers.get("Date")

    def namespace(self, name: str) -> JsonDict | None:
        return self._read(_core(name), f"get namespace {name}")

    def namespaces(self) -> tuple[str, ...]:
        return tuple(entry["metadata"]["name"] for entry in self.listed("namespaces", None))

    def node(self, name: str) -> JsonDict | None:
        return self._read(_path("api", "v1", "nodes", name), f"get node {name}")

    def version(self) -> str | None:
        return (self._read("/version", "get /version") or {}).get("gitVersion")

    def sidecar_log(self, client: ClientPod, since: float) -> str:
        """What the client's sidecar has logged from a time on (seconds since 1970)."""
        query = [("container", SIDECAR), ("sinceSeconds", max(1, int(time.time() - since) + 2)), ("limitBytes", MOST_LOG)]
        path, permission = _core(client.namespace, "pods", client.pod, "log"), f"get pods/log in namespace {client.namespace}"
        answer = self._answer(path, permission, query_params=query, header_params={"Accept": "*/*"})
        return "" if answer is None else bytes(answer.data).decode("utf-8", "replace")

    def api_groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every API group with its versions, the preferred one first; the core group has no name."""
        out: list[tuple[str, tuple[str, ...]]] = [("", ("v1",))]
        for group in (self._read("/apis", "get /apis") or {}).get("groups") or ():
            preferred = (group.get("preferredVersion") or {}).get("version")
            versions = [entry["version"] for entry in group["versions"]]
            out.append((group["name"], tuple(sorted(versions, key=lambda version: version != preferred))))
        return out

    def api_resources(self, group: str, version: str) -> list[JsonDict]:
        path = _path("apis", group, version) if group else _path("api", version)
        return list((self._read(path, f"get {path}") or {}).get("resources") or [])

    def metadata(self, group: str, version: str, plural: str, namespace: str) -> list[JsonDict]:
        """All objects of a kind in a namespace, of which only the metadata is read, in pages."""
        path = _path(*(("apis", group, version) if group else ("api", version)), "namespaces", namespace, plural)
        permission = f"list {plural}{'.' if group else ''}{group} in namespace {namespace}"
        query, out = {"limit": "500"}, list[JsonDict]()
        while True:
            page = self._read(path, permission, query_params=list(query.items()), header_params={"Accept": METADATA_ONLY}) or {}
            out += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return out
            query["continue"] = more

    def _read(self, path: str, permission: str, **words: Any) -> JsonDict | None:
        """The response as a dictionary, or None if the object or its kind does not exist."""
        answer = self._answer(path, permission, **words)
        return _json_of(answer, permission) if answer is not None else None

    def _answer(self, path: str, permission: str, **words: Any) -> Any:
        """The response, or None if there is no such object. Raises `CheckError` for every other failure."""
        try:
            return self.client.request("get", path, serialize=False, _request_timeout=TIMEOUT, **words)
        except ApiException as error:
            if error.status == 404:
                return None
            raise _api_error(error, permission) from error
        except (HTTPError, OSError) as error:
            raise CheckError(
                "api_unreachable", f"The API server did not respond ({permission}): {error}. Next: check kubeconfig, context and network."
            ) from error


@dataclass(frozen=True)
class Access:
    """Access to the cluster: `cluster` for the API server, the client's `configuration` for execs into pods."""

    cluster: Cluster
    configuration: Any


def _json_of(answer: Any, permission: str) -> JsonDict:
    """The body of a response. A proxy on the path may answer with a page of its own."""
    try:
        body = json.loads(answer.data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise CheckError("api_error", f"The API server's response is not JSON ({permission}). Next: check whether a proxy responds instead.")
    return body


def _path(*parts: str) -> str:
    """A path of the API. Names come from options, so slashes in them are escaped."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _core(namespace: str, *more: str) -> str:
    return _path("api", "v1", "namespaces", namespace, *more)


def _list(plural: str, namespace: str | None) -> tuple[str, str]:
    """The path of a list, and the name of the permission for it."""
    where = ("namespaces", namespace) if namespace else ()
    scope = f"in namespace {namespace}" if namespace else "in all namespaces"
    if plural in GROUPS:
        group, version = GROUPS[plural]
        return _path("apis", group, version, *where, plural), f"list {plural}.{group} {scope}"
    return _path("api", "v1", *where, plural), f"list {plural} {scope}"


def _api_error(error: Any, permission: str) -> CheckError:
    if error.status == 401:
        return CheckError("unauthorized", f"The API server does not accept the credentials ({permission}). Next: renew the kubeconfig or token.")
    if error.status == 410:
        return CheckError("expired", f"The list of the API server expired while it was read ({permission}). Next: run it again.")
    if error.status == 403:
        return CheckError("forbidden", f"No permission to {permission}. Next: grant that verb on that resource to the account of this run.")
    return CheckError(
        "api_error", f"The API server responded with {error.status} {error.reason} ({permission}). Next: run it again; if that fails too, check the API server."
    )
