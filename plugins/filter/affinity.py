# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role istio_affinity decides between its tasks: which services opted in, what is to be sent, and what is reported. Pure.

Each filter is documented in a file of its name. Everything here comes from and goes to Ansible, so services are dicts:
a I(target) has the options of an entry of C(istio_affinity_services), a I(found) service is an entry of what
M(meshops.istio.istio_affinity_info) returns, and an I(entry) has the options of C(services) of
M(meshops.istio.istio_affinity_report).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.common.validation import check_type_dict
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

Options = dict[str, Any]

# Annotations of a Service.
PROBE = "meshops.istio/probe"
PROBE_KEY = "meshops.istio/probe-key"
PROBE_PORT = "meshops.istio/probe-port"
SINGLE_REPLICA = "meshops.istio/single-replica"
KEYS = ("header", "cookie", "query")


def affinity_targets(listed: Any, services: Any = ()) -> list[Options]:
    """What opted in, by name. What the inventory says of a service counts before what its annotations say."""
    given = [entry for entry in dicts(listed, "affinity_targets") if entry.get("namespace") and entry.get("service")]
    annotated = {name_of(target): target for target in map(annotated_target, dicts(services, "affinity_targets")) if target}
    merged = [merged_target(entry, annotated.get(name_of(entry), {})) for entry in given]
    names = {name_of(entry) for entry in given}
    return sorted([*merged, *(target for name, target in annotated.items() if name not in names)], key=name_of)


def affinity_plan(targets: Any, found: Any, looked: bool = True, namespaces: Sequence[str] = ()) -> list[Options]:
    """What a run is to do: C(entry) as it would be reported if it ended here, and the C(target), which is empty where no service opted in."""
    seen = dicts(found, "affinity_plan")
    asked = dicts(targets, "affinity_plan")
    names = {name_of(target) for target in asked}
    planned = [planned_target(target, seen, looked and target["namespace"] in (namespaces or [target["namespace"]])) for target in asked]
    return planned + [only_looked_at(service, seen) for service in seen if name_of(service) not in names]


def affinity_entries(plan: Any, checked: Any, reason: str = "the run ended before") -> list[Options]:
    """The plan's entries with the outcome of each check; one that was to be probed and was not says so, as nobody is to take it for looked at."""
    outcomes = {identity_of(entry): entry for entry in dicts(checked, "affinity_entries")}
    entries = [item["entry"] for item in dicts(plan, "affinity_entries")]
    return [outcomes.get(identity_of(entry), not_probed(entry, reason)) if entry["live"] else entry for entry in entries]


def affinity_how_to_opt_in(plan: Any) -> list[str]:
    """Lines with the annotations, and with the inventory, that would have the services probed that nobody opted in; none if there are none."""
    services = [item["entry"]["static"] for item in dicts(plan, "affinity_how_to_opt_in") if not item["target"]]
    if not services:
        return []
    return [
        "These services ask for affinity and were judged by configuration alone. To have one probed, annotate it, or list it in istio_affinity_services:",
        *map(annotation_of, services),
        "istio_affinity_services:",
        *map(inventory_line_of, services),
    ]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "affinity_targets": affinity_targets,
            "affinity_plan": affinity_plan,
            "affinity_entries": affinity_entries,
            "affinity_how_to_opt_in": affinity_how_to_opt_in,
        }


# -- who opted in --


def annotated_target(service: Mapping[str, Any]) -> Options:
    """A Service's annotations as an entry of the inventory; empty where it did not opt in. C(refused) says what is wrong with them."""
    meta = service["metadata"]
    marks: Mapping[str, str] = meta.get("annotations") or {}
    if PROBE not in marks:
        return {}
    target: Options = {"namespace": meta["namespace"], "service": meta["name"], "path": marks[PROBE]}
    refused = [] if marks[PROBE].startswith("/") else [f"{PROBE} is '{marks[PROBE]}'; it must be a path, with a / at its beginning"]
    if PROBE_KEY in marks:
        key = annotated_key(marks[PROBE_KEY])
        refused += [] if key else [f"{PROBE_KEY} is '{marks[PROBE_KEY]}'; it must be header:<name>, cookie:<name>, query:<name> or source_ip"]
        target |= {"key": key} if key else {}
    if PROBE_PORT in marks:
        number = re.fullmatch(r"[0-9]{1,5}", marks[PROBE_PORT])
        refused += [] if number else [f"{PROBE_PORT} is '{marks[PROBE_PORT]}'; it must be a number"]
        target |= {"port": int(number[0])} if number else {}
    target |= {"single": True} if marks.get(SINGLE_REPLICA) == "true" else {}
    return target | ({"refused": f"Annotation {'; '.join(refused)}."} if refused else {})


def annotated_key(text: str) -> Options:
    """Empty for what is no key."""
    if text == "source_ip":
        return {"type": "source_ip"}
    kind, _colon, name = text.partition(":")
    return {"type": kind, "name": name.strip()} if kind in KEYS and name.strip() else {}


def merged_target(entry: Mapping[str, Any], annotated: Mapping[str, Any]) -> Options:
    """Both words for yes and no are made what they mean, as a quoted "false" must not send a request, nor hide a verdict."""
    kept = {name: value for name, value in annotated.items() if name != "refused"}
    target = kept | {name: value for name, value in entry.items() if value is not None}
    return target | {name: is_yes(target[name]) for name in ("probe", "single") if name in target}


# -- what is to be done --


def planned_target(target: Options, found: Sequence[Mapping[str, Any]], looked: bool) -> Options:
    """C(looked) is whether rules were read where this service is, so that none found means that there is none."""
    same = [service for service in found if name_of(service) == name_of(target)]
    port = port_of(target)
    exact = next((service for service in same if port in (None, service.get("port"))), None)
    single = target.get("single", False)
    entry = {
        "namespace": target["namespace"],
        "service": target["service"],
        "port": port,
        # Nothing is sent to one pod that is meant to be alone; more than one is to be told apart after all.
        "live": target.get("probe", True) and not (single and exact is not None and ready_pods(exact) < 2),
        "single": single,
        "static": judged_by_expectation(target, exact or next(iter(same), None), looked),
        "result": None,
        "error": target.get("refused"),
    }
    return {"target": target, "entry": entry}


def only_looked_at(service: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Options:
    """The port is part of its name only where there are several."""
    ports = sum(1 for other in found if name_of(other) == name_of(service))
    entry = {"namespace": service["namespace"], "service": service["service"], "port": service.get("port") if ports > 1 else None}
    return {"target": {}, "entry": entry | {"live": False, "single": False, "static": service, "result": None, "error": None}}


def judged_by_expectation(target: Options, service: Mapping[str, Any] | None, looked: bool) -> Mapping[str, Any] | None:
    """What was found; that no rule asks for affinity, or one by another key than is expected, is a verdict too.

    A cookie that is learned may be one of Istio's persistent sessions, which need no rule.
    """
    expected = as_dict(target.get("key"))
    learned = expected.get("cookie", "given") != "given"
    fits = service is not None and (not expected or same_key(expected, as_dict(service.get("key"))))
    if fits or learned or not looked:
        return service
    if service is None:
        return {"static_verdict": "does_not", "why": "no rule asks for affinity"}
    why = f"the rule hashes on {key_words(as_dict(service.get('key')))}, and {key_words(expected, 'header')} is expected"
    return {**service, "static_verdict": "does_not", "why": why}


def same_key(expected: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Names of headers alone are the same in any case."""
    kind, name, other = expected.get("type") or "header", expected.get("name") or "", key.get("name") or ""
    return kind == key.get("type") and (name.lower() == other.lower() if kind == "header" else name == other)


def not_probed(entry: Options, reason: str) -> Options:
    return entry | {"error": entry["error"] or f"It was not probed: {reason}"}


# -- how to opt in --


def annotation_of(service: Mapping[str, Any]) -> str:
    key = as_dict(service.get("key"))
    words = ":".join(str(key[field]) for field in ("type", "name") if key.get(field))
    return f"kubectl -n {service['namespace']} annotate service {service['service']} {PROBE}=/" + (f" {PROBE_KEY}={words}" if words else "")


def inventory_line_of(service: Mapping[str, Any]) -> str:
    key = {field: value for field, value in as_dict(service.get("key")).items() if field in ("type", "name") and value is not None}
    return f"  - {json.dumps({'namespace': service['namespace'], 'service': service['service'], 'key': key, 'path': '/'})}"


# -- small words --


def is_yes(value: Any) -> bool:
    """As Ansible reads a bool; what is none is a no."""
    return bool(boolean(value, strict=False))  # type: ignore[no-untyped-call]  # ansible-core has no types for it


def as_dict(value: Any) -> Options:
    """As a module's option of type dict takes it (C(type=header name=x) is one); empty for what it would refuse."""
    try:
        return dict(check_type_dict(value or {}))  # type: ignore[no-untyped-call]  # ansible-core has no types for it
    except TypeError:
        return {}


def name_of(service: Mapping[str, Any]) -> tuple[str, str]:
    return (service["namespace"], service["service"])


def identity_of(entry: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return (*name_of(entry), port_of(entry))


def port_of(entry: Mapping[str, Any]) -> int | None:
    """None where there is none, or none that can be one."""
    text = str(entry.get("port") or "")
    return int(text) if text.isdecimal() else None


def ready_pods(service: Mapping[str, Any]) -> int:
    return sum(1 for pod in service.get("backends") or [] if pod.get("ready"))


def key_words(key: Mapping[str, Any], kind: str = "nothing") -> str:
    return f"{key.get('type') or kind} {key.get('name') or ''}".strip()
