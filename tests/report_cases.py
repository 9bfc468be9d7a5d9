# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports to test with: results recorded from the lab's sample, and what a report is made of around them.

.venv/bin/python tests/report_cases.py <kubeconfig>       records them anew, on the lab with its sample
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/unit/plugins/module_utils/_report/fixtures"

if __name__ == "__main__":
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader([str(ROOT / "collections")])

from ansible_collections.meshops.istio.plugins.module_utils._report.assess import (  # noqa: E402 - by the loader
    Entry,
    Settings,
    Waiver,
    make_report,
)
from ansible_collections.meshops.istio.plugins.module_utils._report.model import (  # noqa: E402 - by the loader
    LiveResult,
    Report,
    ServiceReport,
    StaticResult,
)
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read  # noqa: E402 - by the loader

KEY = {"type": "header", "name": "user-session"}
# Each verdict by what brings it about on a healthy sample: another header is a mistyped rule, two requests prove nothing.
RECORDED: dict[str, dict[str, Any]] = {
    "passed": {"key": KEY},
    "failed": {"key": {"type": "header", "name": "another-header"}},
    "inconclusive": {"key": KEY, "sessions": 20, "requests": 2},
    "not_proven": {"key": KEY, "connection": "keepalive"},
    "error": {"key": KEY, "service": "no-such-service"},
}
NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)  # noqa: UP017 - as in the plugins
TODAY = NOON.date()
SETTINGS = Settings(("failed", "not_proven", "error"), 24.0, False, ())
# Synthetic: in the form of the catalogue's findings (_model.py).
FINDING = {
    "id": "C13",
    "severity": "error",
    "title": "The route hashes on another header than the one checked",
    "evidence": [{"source": "Envoy of sample/test-pod", "field": "route hash_policy", "value": "header user-session"}],
    "fix": {"kind": "yaml", "body": "spec:\n  trafficPolicy: {}\n"},
    "reference": "https://istio.io/latest/docs/reference/config/networking/destination-rule/",
}


def recorded(verdict: str) -> dict[str, Any]:
    """A result of istio_affinity_check as it came from the lab."""
    found: dict[str, Any] = json.loads((FIXTURES / f"{verdict}.json").read_text())
    return found


def looked(verdict: str) -> dict[str, Any]:
    """An entry of istio_affinity_info as it came from the lab, with this static verdict."""
    found: dict[str, Any] = json.loads((FIXTURES / "info.json").read_text())[0]
    return found | {"static_verdict": verdict, "why": f"because {verdict}"}


def probed(result: dict[str, Any] | str, service: str = "cart", **more: Any) -> Entry:
    """A service that was probed, with a recorded result by its verdict or one of the test's own."""
    given = recorded(result) if isinstance(result, str) else result
    return entry(service, live=True, result=read(LiveResult, given), **more)


def seen(verdict: str, service: str = "cart", **more: Any) -> Entry:
    """A service that was only looked at."""
    return entry(service, static=read(StaticResult, looked(verdict)), **more)


def entry(service: str, **more: Any) -> Entry:
    given: dict[str, Any] = {"namespace": "shop", "port": None, "live": False, "single": False, "result": None, "static": None, "error": None}
    return Entry(service=service, **(given | more))


def waiver(match: str, until: date = TODAY, service: str = "shop/*") -> Waiver:
    return Waiver(service, match, "team shop", "being moved", until)


@dataclass
class Earlier:
    """One earlier report, or none, and one that is dated later, or none."""

    report: Report | None
    ahead: Report | None = None

    def last(self) -> Report | None:
        return self.report

    last_look = last

    def ahead_of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        return next((service for service in self.ahead.services if service.identity == identity), None) if self.ahead else None

    def of(self, identity: tuple[str, str, int | None]) -> ServiceReport | None:
        return next((service for service in self.report.services if service.identity == identity), None) if self.report else None


def run_of(*entries: Entry, after: Report | None = None, hours: float = 0, settings: Settings = SETTINGS, error: str | None = None) -> Report:
    """A report, so many hours after noon, following another one."""

    return make_report("prod", error, entries, settings, NOON + timedelta(hours=hours), Earlier(after))


def only(report: Report) -> ServiceReport:
    (service,) = report.services
    return service


def record(kubeconfig: Path) -> None:
    from inprocess import run_check, run_info  # noqa: PLC0415 - it needs kubernetes.core, which other users of this file don't

    sample = {"namespace": "sample", "service": "nginx-service"}
    for verdict, options in RECORDED.items():
        found = run_check(kubeconfig, **(sample | options))
        if found["verdict"] != verdict:
            sys.exit(f"{verdict} was wanted: {found['msg']}")
        (FIXTURES / f"{verdict}.json").write_text(json.dumps(found, indent=1) + "\n")
    (FIXTURES / "info.json").write_text(json.dumps(run_info(kubeconfig, key=KEY, **sample), indent=1) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
