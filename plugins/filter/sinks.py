# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role istio_affinity sends to its sinks, and what it may say about a failure. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import sink_metrics
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import log_line
from ansible_collections.meshops.istio.plugins.module_utils._secrets import secrets_of_sink
from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NOT_IN_A_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
# Shorter ones cannot be told from ordinary words.
SHORTEST_SECRET = 4
MOST_OF_A_FAILURE = 1000
# The API server takes 1 MiB for all values of a ConfigMap together.
MOST_DATA = 1_000_000
PREFIX = "istio_affinity_"
# The metrics that alerts need. Those with one sample for each word are kept where they are 1.
OF_CLUSTERS = frozenset({"services", "cluster_up", "last_run_timestamp_seconds", "reports_set_aside", "sink_up", "gone"})
OF_SERVICES = frozenset({"verdict", "status", "broken", "undecided", "last_conclusive_timestamp_seconds"})


def affinity_sink_request(sink: Any, *segments: str) -> dict[str, Any]:
    """The URL of a sink with more segments in its path, before its query, and the headers. No error shows a value."""
    url, headers = str(sink.get("url", "")), sink.get("headers") or {}
    parts = _split(url)
    if parts is None:
        raise AnsibleFilterError("The url of the sink is not one that begins with http:// or https:// and names a host. Its value is not shown.")
    path = "/".join([parts.path.rstrip("/"), *(quote(str(segment), safe="") for segment in segments)])
    values = {str(name): str(value).strip() for name, value in headers.items()}
    for name, value in values.items():
        if not TOKEN.fullmatch(name) or NOT_IN_A_VALUE.search(value):
            raise AnsibleFilterError(f"Header {log_line(name, 100)} of the sink has a line break or another character that HTTP does not allow.")
    return {"url": urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), "headers": values}


def affinity_sink_failure(text: Any, sink: Any) -> str:
    """Why sending failed, in a line without the secrets of the sink."""
    shown = str(text)
    secrets = _forms(*secrets_of_sink(str(sink.get("url", "")), sink.get("headers") or {}))
    for secret in sorted(set(secrets), key=len, reverse=True):
        shown = shown.replace(secret, "***")
    return log_line(shown, MOST_OF_A_FAILURE)


def affinity_sink_metrics(sinks: Any, cluster: str) -> str:
    """The metrics that say which sinks have the report."""
    return sink_metrics(str(cluster), [(str(sink["name"]), bool(sink["sent"])) for sink in dicts(sinks, "affinity_sink_metrics")])


def affinity_sink_data(outcome: Any, metrics: str) -> dict[str, str]:
    """The outcome and the metrics of a run as data of a ConfigMap: all of it, or what fits."""
    smallest = 0
    for data in _variants(dict(outcome), str(metrics)):
        smallest = sum(len(value.encode("utf-8", "replace")) for value in data.values())
        if smallest <= MOST_DATA:
            return data
    raise AnsibleFilterError(f"The outcome has {smallest} bytes at least, and a ConfigMap takes {MOST_DATA}. Next: use another sink for this cluster.")


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "affinity_sink_data": affinity_sink_data,
            "affinity_sink_failure": affinity_sink_failure,
            "affinity_sink_metrics": affinity_sink_metrics,
            "affinity_sink_request": affinity_sink_request,
        }


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, or None for one that cannot be used."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable and not re.search(r"[\x00-\x20\x7f]", parts.netloc + parts.query) else None


def _forms(*secrets: str) -> Iterator[str]:
    """Each secret as it stands, as Python and JSON print it, and decoded."""
    for secret in secrets:
        for form in (secret, unquote(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            if len(form) >= SHORTEST_SECRET:
                yield form


def _variants(outcome: dict[str, Any], metrics: str) -> Iterator[dict[str, str]]:
    """From everything to the least that is of use."""
    services = dicts(outcome.get("services") or [], "affinity_sink_data")
    red = [service for service in services if service.get("status") != "green"]
    without_green = outcome | {"services": red, "omitted": {"services": len(services) - len(red), "metrics": True}}
    without_services = outcome | {"services": [], "reasons": [], "omitted": {"services": len(services), "metrics": True}}
    yield _data(outcome, metrics, indent=4)
    yield _data(outcome, metrics)
    yield _data(outcome | {"omitted": {"services": 0, "metrics": True}}, _only(metrics, OF_CLUSTERS | OF_SERVICES))
    yield _data(without_green, _only(metrics, OF_CLUSTERS | OF_SERVICES))
    yield _data(without_services, _only(metrics, OF_CLUSTERS))


def _data(outcome: dict[str, Any], metrics: str, indent: int | None = None) -> dict[str, str]:
    separators = (",", ": ") if indent else (",", ":")
    return {"outcome.json": json.dumps(outcome, indent=indent, separators=separators, sort_keys=True), "affinity.prom": metrics}


def _only(metrics: str, families: frozenset[str]) -> str:
    """The samples of these families; of those with a sample for each word, the ones that are 1."""
    kept = []
    for line in metrics.split("\n"):
        name = line.split(" ", 3)[2] if line.startswith("# ") else line.partition("{")[0]
        if name.removeprefix(PREFIX) in families and (line.startswith("#") or not line.endswith("} 0") or name.removeprefix(PREFIX) in OF_CLUSTERS):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)
