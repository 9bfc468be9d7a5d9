# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decisions that the role `istio_affinity` takes between its tasks: which services opted in, the probe plan, and the report entries. Pure.

Each filter is documented in a file of its name. Ansible passes services as dicts: a `target` has the options of an entry of
`istio_affinity_services`, `found` are the services in the result of `istio_affinity_info`, and an `entry` has the options of
`services` of `istio_affinity_report`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.common.validation import check_type_dict
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.meshops.istio.plugins.module_utils._istio.names import inventory_value, is_key_name, kubectl, printable
from ansible_collections.meshops.istio.plugins.plugin_utils._lists import dicts

Options = dict[str, Any]

# Annotations of a Service.
PROBE = "meshops.istio/probe"
PROBE_KEY = "meshops.istio/probe-key"
PROBE_PORT = "meshops.istio/probe-port"
SINGLE_REPLICA = "meshops.istio/single-replica"
KEYS = ("header", "cookie", "query")
REPLACES = f"# If a service opted in by annotation, list its port of {PROBE_PORT} too: entries of the inventory take the place of its annotations."


def affinity_targets(listed: Any, services: Any = ()) -> list[Options]:
    """The services that opted in, by name. Options in the inventory override those in annotations."""
    given = [entry for entry in dicts(listed, "affinity_targets") if entry.get("namespace") and entry.get("service")]
    annotated = {name_of(target): target for target in map(annotated_target, dicts(services, "affinity_targets")) if target}
    merged = [merged_target(entry, annotated.get(name_of(entry), {})) for entry in given]
    names = {name_of(entry) for entry in given}
    return sorted([*merged, *(target for name, target in annotated.items() if name not in names)], key=name_of)


def affinity_plan(targets: Any, found: Any, looked: bool = True, namespaces: Sequence[str] = ()) -> list[Options]:
    """The probe plan: for each service the `entry`, as reported if the run ended here, and the `target`, which is empty if it did not opt in."""
    static = dicts(found, "affinity_plan")
    opted_in = dicts(targets, "affinity_plan")
    planned = [planned_target(target, static, looked and target["namespace"] in (namespaces or [target["namespace"]])) for target in opted_in]
    return planned + [static_only(service, static) for service in static if not any(covers(target, service) for target in opted_in)]


def affinity_entries(plan: Any, checked: Any, reason: str = "the run ended before") -> list[Options]:
    """The entries of the plan with the outcome of each check. A planned probe without outcome becomes an error, never an apparent success."""
    outcomes = {identity_of(entry): entry for entry in dicts(checked, "affinity_entries")}
    entries = [item["entry"] for item in dicts(plan, "affinity_entries")]
    return [outcomes.get(identity_of(entry), not_probed(entry, reason)) if entry["live"] else entry for entry in entries]


def affinity_how_to_opt_in(plan: Any) -> list[str]:
    """Lines with the annotations and the inventory entries that opt in the remaining services; empty if every service opted in."""
    items = dicts(plan, "affinity_how_to_opt_in")
    opted_in = {name_of(item["target"]) for item in items if item["target"]}
    services = [item["entry"] for item in items if not item["target"]]
    if not services:
        return []
    # An annotation names one port only.
    lines = [(entry, opted_in_by(entry["static"], name_of(entry) in opted_in or entry["port"] is not None)) for entry in services]
    commands, entries = [line[0] for _entry, line in lines if line and line[0]], [line[1] for _entry, line in lines if line]
    refused = sorted({"/".join(name_of(entry)) for entry, line in lines if not line})
    return [
        "These services ask for affinity and got a static verdict only. To opt in to probing, annotate a service or list it in istio_affinity_services:",
        *commands,
        *(["istio_affinity_services:", *entries] if entries else []),
        *([REPLACES] if any(name_of(entry) in opted_in for entry, line in lines if line) else []),
        *([f"# Not printed, because the name of the key is not one that can be sent: {printable(', '.join(refused))}."] if refused else []),
    ]


class FilterModule:
    """The entry point that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "affinity_targets": affinity_targets,
            "affinity_plan": affinity_plan,
            "affinity_entries": affinity_entries,
            "affinity_how_to_opt_in": affinity_how_to_opt_in,
        }


# -- services that opted in --


def annotated_target(service: Mapping[str, Any]) -> Options:
    """A Service's annotations as an inventory entry; empty if it did not opt in. `refused` describes invalid annotations."""
    meta = service["metadata"]
    marks: Mapping[str, str] = meta.get("annotations") or {}
    if PROBE not in marks:
        return {}
    target: Options = {"namespace": meta["namespace"], "service": meta["name"], "path": marks[PROBE]}
    refused = [] if marks[PROBE].startswith("/") else [f"{PROBE} is '{marks[PROBE]}'; it must be a path that starts with /"]
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
    """The key as a dict; empty if the text is not a valid key."""
    if text == "source_ip":
        return {"type": "source_ip"}
    kind, _colon, name = text.partition(":")
    return {"type": kind, "name": name.strip()} if kind in KEYS and name.strip() else {}


def merged_target(entry: Mapping[str, Any], annotated: Mapping[str, Any]) -> Options:
    """The inventory entry over the annotations. Booleans are converted: a quoted "false" must neither send a request nor hide a verdict.

    Annotations add nothing to an entry with headers, because their author must not choose where these are sent.
    """
    kept = {} if entry.get("headers") else {name: value for name, value in annotated.items() if name != "refused"}
    target = kept | {name: value for name, value in entry.items() if value is not None}
    return target | {name: is_yes(target[name]) for name in ("probe", "single") if name in target}


# -- probe plan --


def planned_target(target: Options, services: Sequence[Mapping[str, Any]], rules_read: bool) -> Options:
    """The plan of one service that opted in. `rules_read`: the rules in its namespace were read, so a missing rule is a fact."""
    own = [service for service in services if covers(target, service)]
    judged = [judged_by_expectation(target, service, rules_read) for service in own] or [judged_by_expectation(target, None, rules_read)]
    single = target.get("single", False)
    entry = {
        "namespace": target["namespace"],
        "service": target["service"],
        "port": port_of(target),
        # A service with one replica by intent is probed only if there are more.
        "live": target.get("probe", True) and not (single and own and ready_pods(own[0]) < 2),
        "single": single,
        "static": agreed(judged),
        "result": None,
        "error": target.get("refused"),
    }
    return {"target": target, "entry": entry}


def covers(target: Mapping[str, Any], service: Mapping[str, Any]) -> bool:
    """Whether the target is this port of the service. A target without a port is every port; one with a port is never another one."""
    return name_of(target) == name_of(service) and port_of(target) in (None, service.get("port"))


def agreed(verdicts: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """The static verdict on which the ports agree; `unknown` if they do not, because nothing says which port is meant."""
    known = [verdict for verdict in verdicts if verdict is not None]
    if len({verdict["static_verdict"] for verdict in known}) < 2:
        return next(iter(known), None)
    ports = ", ".join(f"port {verdict.get('port')} {verdict['static_verdict']}" for verdict in known)
    return {**known[0], "static_verdict": "unknown", "why": f"the ports of the service differ ({ports}). Next: name the port to verify"}


def static_only(service: Mapping[str, Any], services: Sequence[Mapping[str, Any]]) -> Options:
    """The plan of a service that did not opt in. The port identifies it only if the service has several."""
    ports = sum(1 for other in services if name_of(other) == name_of(service))
    entry = {"namespace": service["namespace"], "service": service["service"], "port": service.get("port") if ports > 1 else None}
    return {"target": {}, "entry": entry | {"live": False, "single": False, "static": service, "result": None, "error": None}}


def judged_by_expectation(target: Options, service: Mapping[str, Any] | None, rules_read: bool) -> Mapping[str, Any] | None:
    """The static verdict; `does_not` if no rule asks for affinity, or if the rule hashes on another key than expected.

    A learned cookie may belong to Istio's persistent sessions, which need no rule.
    """
    expected = as_dict(target.get("key"))
    learned = expected.get("cookie", "given") != "given"
    # Without a key, the static verdict says whether there is none or none could be read.
    keyless = service is not None and not service.get("key") and service.get("static_verdict") != "sticks"
    fits = service is not None and (not expected or keyless or same_key(expected, as_dict(service.get("key"))))
    if fits or learned or not rules_read:
        return service
    if service is None:
        port = port_of(target)
        return {"static_verdict": "does_not", "why": "no rule asks for affinity" + (f" on port {port}" if port is not None else "")}
    why = f"the rule hashes on {key_words(as_dict(service.get('key')))}, and {key_words(expected, 'header')} is expected"
    return {**service, "static_verdict": "does_not", "why": why}


def same_key(expected: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Only header names ignore case."""
    kind, name, other = expected.get("type") or "header", expected.get("name") or "", key.get("name") or ""
    return kind == key.get("type") and (name.lower() == other.lower() if kind == "header" else name == other)


def not_probed(entry: Options, reason: str) -> Options:
    return entry | {"error": entry["error"] or f"It was not probed: {reason}"}


# -- opting in --


def opted_in_by(service: Mapping[str, Any], by_port: bool) -> list[str]:
    """The annotation that opts a service in, and the entry of the inventory, as lines that do nothing else where they are pasted.
    `by_port` is for one of several ports: only the entry, which names it, since an annotation would replace that of another port.

    Empty if a part of them cannot be what it says: the key's name is text of whoever may create a DestinationRule.
    """
    key = {field: value for field, value in as_dict(service.get("key")).items() if field in ("type", "name") and value is not None}
    kind, name = key.get("type"), key.get("name")
    if key and (kind not in (*KEYS, "source_ip") or not is_key_name(str(kind), name)):
        return []
    words = [f"{PROBE}=/", *([f"{PROBE_KEY}={':'.join(key.values())}"] if key else [])]
    command = kubectl("annotate", "service", service["namespace"], service["service"], *words)
    values = ", ".join(f"{json.dumps(field)}: {inventory_value(value)}" for field, value in key.items())
    place = f'"namespace": {json.dumps(service["namespace"])}, "service": {json.dumps(service["service"])}'
    port = f', "port": {int(service["port"])}' if by_port and service.get("port") else ""
    return ["" if by_port else command, f'  - {{{place}{port}, "key": {{{values}}}, "path": "/"}}'] if command else []


# -- helpers --


def is_yes(value: Any) -> bool:
    """Convert as Ansible converts a bool; anything else is false."""
    return bool(boolean(value, strict=False))  # type: ignore[no-untyped-call]  # ansible-core has no types for it


def as_dict(value: Any) -> Options:
    """Convert as a module option of type dict (`type=header name=x` is valid); empty for invalid values."""
    try:
        return dict(check_type_dict(value or {}))  # type: ignore[no-untyped-call]  # ansible-core has no types for it
    except TypeError:
        return {}


def name_of(service: Mapping[str, Any]) -> tuple[str, str]:
    return (service["namespace"], service["service"])


def identity_of(entry: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return (*name_of(entry), port_of(entry))


def port_of(entry: Mapping[str, Any]) -> int | None:
    """None if there is no port, or no valid one."""
    text = str(entry.get("port") or "")
    return int(text) if text.isdecimal() else None


def ready_pods(service: Mapping[str, Any]) -> int:
    return sum(1 for pod in service.get("backends") or [] if pod.get("ready"))


def key_words(key: Mapping[str, Any], kind: str = "nothing") -> str:
    return f"{key.get('type') or kind} {key.get('name') or ''}".strip()
