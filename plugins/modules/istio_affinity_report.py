#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_affinity_report
short_description: Evaluate and report the session affinity of a cluster's services
version_added: 1.0.0
description:
  - Takes the results of M(meshops.istio.istio_affinity_check) and M(meshops.istio.istio_affinity_info) for the services
    of one cluster, and decides the status of each service by its verdict, its history and the waivers.
  - Writes the report as JSON, JUnit XML, Prometheus text and an HTML page, with an index page of all clusters.
  - A run appears in O(dir) completely or not at all. Files that this module did not write are never deleted.
  - Files and directories are readable for their owner and group only, as far as the umask allows.
  - Does not access the cluster. Run the module on the control node.
  - Never fails because of the reported results. The play decides what to do with RV(status).
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - Evaluates and returns everything, but writes no files.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: full
    details:
      - Shows the difference between RV(table) of the last run and of this run.
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: none
    details:
      - Each run writes a new report.
options:
  cluster:
    description: The name of the cluster, for example V({{ inventory_hostname }}). It must be valid as the name of a directory.
    type: str
    required: true
  dir:
    description: The directory for the reports of all clusters.
    type: path
    default: ./reports
  services:
    description: The services with their results.
    type: list
    elements: dict
    required: true
    suboptions:
      namespace:
        description: The namespace of the service.
        type: str
        required: true
      service:
        description: The name of the service.
        type: str
        required: true
      port:
        description: The port number. A service may be listed once for each port.
        type: int
      live:
        description: Whether the service should have been probed. A missing O(services[].result) then counts as an error.
        type: bool
        default: false
      single:
        description: Whether the service has one replica by intent. An inconclusive result is then not applicable.
        type: bool
        default: false
      result:
        description: The complete result of M(meshops.istio.istio_affinity_check), including the result of a failed task.
        type: dict
      static:
        description: The service's entry of RV(meshops.istio.istio_affinity_info#module:services).
        type: dict
      error:
        description: Why there is no result for the service.
        type: str
  error:
    description: Why the cluster or a part of it could not be inspected. The run is then red, regardless of O(services).
    type: str
  waivers:
    description: Results that are accepted for a limited time.
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description: The service as C(namespace/name), or a pattern such as V(shop/*).
        type: str
        required: true
      match:
        description:
          - The verdict (for example V(failed)) or the ID of the finding (for example V(C13)) to waive.
          - The waiver of a finding does not apply while another finding of severity V(error) is not waived.
        type: str
        required: true
      owner:
        description: The person or team that is responsible for the waiver.
        type: str
        required: true
      reason:
        description: Why the result is accepted.
        type: str
        required: true
      until:
        description: The last day of the waiver, as C(YYYY-MM-DD), in UTC.
        type: str
        required: true
  fail_on:
    description:
      - The verdicts that make a service red, in addition to V(failed), which always does.
      - The static verdict V(does_not) counts as V(failed), and V(unknown) counts as V(inconclusive).
    type: list
    elements: str
    choices: [failed, not_proven, inconclusive, error]
    default: [failed, not_proven, error]
  max_age:
    description: Hours after which a service without a conclusive verdict (V(passed), V(failed), V(sticks) or V(does_not)) turns red.
    type: float
    default: 24
  hash_session_ids:
    description:
      - Whether to write hashes instead of session IDs, which may be live tokens.
      - A random salt stored in O(dir) keeps the hashes the same from run to run.
    type: bool
    default: false
  keep:
    description: The number of runs to keep for each cluster.
    type: int
    default: 48
  keep_days:
    description: The number of days to keep a run.
    type: int
    default: 90
  now:
    description: The time of the run, as C(YYYY-MM-DDTHH:MM:SSZ). The default is the current time. Other values are for tests.
    type: str
seealso:
  - module: meshops.istio.istio_affinity_check
  - module: meshops.istio.istio_affinity_info
author:
  - meshops.istio contributors (!UNKNOWN)
"""

EXAMPLES = r"""
---
- name: Check the cart
  meshops.istio.istio_affinity_check:
    namespace: shop
    service: cart
    fail_on: []
  register: cart
  failed_when: false

- name: Write the report
  meshops.istio.istio_affinity_report:
    cluster: "{{ inventory_hostname }}"
    services:
      - namespace: shop
        service: cart
        live: true
        result: "{{ cart }}"
    waivers:
      - service: shop/cart
        match: not_proven
        owner: payments
        reason: One zone is being rebuilt
        until: "2026-12-31"
  register: report
  delegate_to: localhost

- name: Fail the play if the report is red
  ansible.builtin.assert:
    that: report.status == 'green'
    fail_msg: "{{ report.table | join('\n') }}"
"""

RETURN = r"""
status:
  description: V(red) if a service is red or O(error) is given, else V(green).
  returned: success
  type: str
  sample: green
services:
  description: The services, starting with the red ones.
  returned: success
  type: list
  elements: dict
  contains:
    namespace:
      description: The namespace of the service.
      type: str
    service:
      description: The name of the service.
      type: str
    port:
      description: The port number, if one was given.
      type: int
    mode:
      description: V(live) if the service was or should have been probed, else V(static).
      type: str
    verdict:
      description:
        - The verdict of the probe, or the static verdict V(sticks), V(does_not) or V(unknown).
        - V(error) if there is neither.
      type: str
    status:
      description: V(green), V(red), V(waived) or V(not_applicable).
      type: str
    why:
      description: The reason, in a sentence.
      type: str
    since:
      description: The time since when the service is red or waived. V(null) if it is neither.
      type: str
    waiver:
      description: The waiver that applies, or the last one that expired (C(expired)).
      type: dict
gone:
  description: Services of the last run that are missing in this run, for example because their rule was deleted.
  returned: success
  type: list
  elements: dict
paths:
  description: The paths of the report's files. In check mode, the files do not exist.
  returned: success
  type: dict
  sample:
    json: /srv/reports/prod/20261124T230000Z/report.json
    junit: /srv/reports/prod/20261124T230000Z/junit.xml
    prometheus: /srv/reports/prod/20261124T230000Z/affinity.prom
    html: /srv/reports/prod/20261124T230000Z/index.html
    index: /srv/reports/index.html
deleted:
  description: The names of the runs that were deleted because of O(keep) and O(keep_days).
  returned: success
  type: list
  elements: str
set_aside:
  description:
    - The names of the runs that are dated later than this one, because the clock was wrong in one of the runs.
    - They are not taken for the last run. They are renamed, with C(.ahead) at the end of their names, and kept as long as other runs.
    - A service that was broken in one of them stays red until a conclusive verdict shows that it is not.
  returned: success
  type: list
  elements: str
table:
  description: The report for a terminal, in lines of at most 100 columns.
  returned: success
  type: list
  elements: str
"""

import dataclasses
import re
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.meshops.istio.plugins.module_utils._report.as_html import to_html, to_index
from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import to_json
from ansible_collections.meshops.istio.plugins.module_utils._report.as_junit import to_junit
from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import to_prometheus
from ansible_collections.meshops.istio.plugins.module_utils._report.as_table import to_table
from ansible_collections.meshops.istio.plugins.module_utils._report.assess import Entry, Settings, Waiver, make_report
from ansible_collections.meshops.istio.plugins.module_utils._report.hiding import hasher, hide
from ansible_collections.meshops.istio.plugins.module_utils._report.model import TIME, LiveResult, Report, StaticResult, time_of
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read, text
from ansible_collections.meshops.istio.plugins.module_utils._report.store import (
    INDEX,
    JUNIT,
    METRICS,
    PAGE,
    REPORT,
    Past,
    Store,
    StoreError,
    brief_of,
    utc_now,
)

# One file for each format: a new format is one more line.
FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "json": (REPORT, to_json),
    "junit": (JUNIT, to_junit),
    "prometheus": (METRICS, to_prometheus),
    "html": (PAGE, to_html),
}
FAIL_ON = ["failed", "not_proven", "inconclusive", "error"]


class BadOptionError(Exception):
    """An option is invalid; the text names it."""

    def __init__(self, message: str) -> None:
        super().__init__(text(message))


def argument_spec() -> dict[str, Any]:
    return {
        "cluster": {"type": "str", "required": True},
        "dir": {"type": "path", "default": "./reports"},
        "services": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "namespace": {"type": "str", "required": True},
                "service": {"type": "str", "required": True},
                "port": {"type": "int"},
                "live": {"type": "bool", "default": False},
                "single": {"type": "bool", "default": False},
                "result": {"type": "dict"},
                "static": {"type": "dict"},
                "error": {"type": "str"},
            },
        },
        "error": {"type": "str"},
        "waivers": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {name: {"type": "str", "required": True} for name in ("service", "match", "owner", "reason", "until")},
        },
        "fail_on": {"type": "list", "elements": "str", "choices": FAIL_ON, "default": ["failed", "not_proven", "error"]},
        "max_age": {"type": "float", "default": 24},
        "hash_session_ids": {"type": "bool", "default": False},
        "keep": {"type": "int", "default": 48},
        "keep_days": {"type": "int", "default": 90},
        "now": {"type": "str"},
    }


# option: the minimum and the maximum
LIMITS = {"max_age": (0, 87_600), "keep": (1, 100_000), "keep_days": (1, 36_500)}


def read_entries(services: list[dict[str, Any]]) -> list[Entry]:
    """The services, each once. Raises BadOptionError."""
    entries = [
        Entry(
            namespace=text(given["namespace"]),
            service=text(given["service"]),
            port=given["port"],
            live=given["live"],
            single=given["single"],
            result=read(LiveResult, given["result"]) if given["result"] is not None else None,
            static=read(StaticResult, given["static"]) if given["static"] is not None else None,
            error=text(given["error"]) if given["error"] else None,
        )
        for given in services
    ]
    identities = set()
    for number, entry in enumerate(entries):
        if not entry.namespace or not entry.service:
            raise BadOptionError(f"Option services[{number}] has an empty namespace or service; name both.")
        if entry.identity in identities:
            raise BadOptionError(f"Option services has {entry.namespace}/{entry.service} twice; remove one, or give each its port.")
        identities.add(entry.identity)
    return entries


def read_waivers(given: list[dict[str, str]]) -> tuple[Waiver, ...]:
    """Raises BadOptionError."""
    waivers = []
    for number, waiver in enumerate(given):
        place = f"Option waivers[{number}]"
        empty = next((name for name in ("service", "match", "owner", "reason") if not waiver[name].strip()), None)
        if empty:
            raise BadOptionError(f"{place}.{empty} is empty; a waiver needs a service, a match, an owner and a reason.")
        if "/" not in waiver["service"]:
            raise BadOptionError(f"{place}.service is {waiver['service']}; write it as namespace/name, with * for any.")
        try:
            until = datetime.strptime(waiver["until"], "%Y-%m-%d").date()  # noqa: DTZ007 - a day, read as one in UTC
        except ValueError as error:
            raise BadOptionError(f"{place}.until is {waiver['until']}; it must be a day written as YYYY-MM-DD.") from error
        waivers.append(Waiver(waiver["service"], text(waiver["match"]), text(waiver["owner"]), text(waiver["reason"]), until))
    return tuple(waivers)


def read_settings(params: dict[str, Any]) -> Settings:
    """Raises BadOptionError."""
    for option, (least, most) in LIMITS.items():
        if not least <= params[option] <= most:
            raise BadOptionError(f"Option {option} is {params[option]}; it must be between {least} and {most}.")
    if not params["dir"].strip():
        raise BadOptionError("Option dir is empty. Next: name the directory for the reports, or leave the option out.")
    cluster = params["cluster"]
    if not re.fullmatch(r"[^/.\s][^/\n\t]{0,199}", cluster) or cluster == INDEX or text(cluster) != cluster:
        raise BadOptionError(f"Option cluster is {cluster!a}, which cannot name a directory; use no slashes, and begin with a letter or a digit.")
    return Settings(tuple(params["fail_on"]), params["max_age"], params["hash_session_ids"], read_waivers(params["waivers"]))


def read_now(given: str | None) -> datetime:
    """Raises BadOptionError."""
    if given is None:
        return utc_now()
    moment = time_of(given)
    if moment is None or moment.date() < date(2000, 1, 1):
        raise BadOptionError(f"Option now is {given}; it must be a time written as {TIME}.")
    return moment


def report_on(module: AnsibleModule) -> dict[str, Any]:
    """Evaluate, write, delete old runs. Raises BadOptionError and StoreError."""
    params = module.params
    settings, entries, now = read_settings(params), read_entries(params["services"]), read_now(params["now"])
    store = Store(Path(params["dir"]), params["cluster"])
    error = text(params["error"]) if params["error"] else None
    if module.check_mode:
        result, _report = judge(store, params["cluster"], error, entries, settings, now, keep_salt=False)
        return result
    with store.locked():
        result, report = judge(store, params["cluster"], error, entries, settings, now, keep_salt=True)
        run = Path(result["paths"]["json"]).parent
        files = {name: render(report) for name, render in FORMATS.values()} | {METRICS: to_prometheus(report, len(result["set_aside"]))}
        store.publish(run, files, brief_of(report, run.name))
        store.set_aside([store.home / name for name in result["set_aside"]])
        result["deleted"] = store.tidy(run, params["keep"], params["keep_days"], now)
        store.publish_index(to_index(store.briefs(), now, settings.max_age))
    return result


def judge(
    store: Store, cluster: str, error: str | None, entries: list[Entry], settings: Settings, now: datetime, *, keep_salt: bool
) -> tuple[dict[str, Any], Report]:
    """The result of the module, and the report."""
    if settings.hash_session_ids:
        hashed = hasher(store.salt(keep_salt))
        entries = [hide(entry, hashed) for entry in entries]
    past = Past(store.home, now)
    last = past.last()
    report = make_report(cluster, error, entries, settings, now, past)
    run = store.run_for(now)
    paths = {name: str((run / file).absolute()) for name, (file, _render) in FORMATS.items()}
    table = to_table(report)
    result = {
        "changed": True,
        "status": report.status,
        "services": [brief(service) for service in report.services],
        "gone": [dataclasses.asdict(service) for service in report.gone],
        "paths": {**paths, "index": str((store.folder / INDEX).absolute())},
        "deleted": [],
        "set_aside": [run.name for run in past.ahead],
        "table": table,
        "diff": {
            "before_header": "the last run",
            "after_header": "this run",
            "before": "".join(f"{line}\n" for line in (to_table(last) if last else [])),
            "after": "".join(f"{line}\n" for line in table),
        },
    }
    return result, report


def brief(service: Any) -> dict[str, Any]:
    names = ("namespace", "service", "port", "mode", "verdict", "status", "why", "since")
    waiver = dataclasses.asdict(service.waiver) if service.waiver else None
    return {**{name: getattr(service, name) for name in names}, "waiver": waiver}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)  # type: ignore[no-untyped-call]  # ansible-core has no types for it
    try:
        result = report_on(module)
    except (BadOptionError, StoreError) as error:
        module.fail_json(msg=str(error))
    if result["set_aside"]:
        module.warn(
            f"Reports of {module.params['cluster']} are dated later than now, so the clock was wrong in one of the runs. They were set aside: "
            f"{', '.join(result['set_aside'])}. Next: check the clock of the hosts that run verify."
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
