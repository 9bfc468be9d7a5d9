# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as JUnit XML, in the dialect of Jenkins: one test case for each service. Pure.

Red is a failure, or an error if the check could not run. Waived and not applicable are skipped, with the reason.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ansible_collections.meshops.istio.plugins.module_utils._report.model import ERROR, GREEN, NOT_APPLICABLE, RED, WAIVED, Report, ServiceReport

CLUSTER_CASE = "the whole cluster can be inspected"


def to_junit(report: Report) -> str:
    errors = sum(1 for service in report.services if _outcome(service) == "error") + (report.error is not None)
    suite = ET.Element(
        "testsuite",
        name=f"istio_affinity.{report.cluster}",
        tests=str(len(report.services) + (report.error is not None)),
        failures=str(sum(1 for service in report.services if _outcome(service) == "failure")),
        errors=str(errors),
        skipped=str(report.summary.waived + report.summary.not_applicable),
        timestamp=report.time.removesuffix("Z"),
        hostname=report.cluster,
    )
    if report.error is not None:
        case = ET.SubElement(suite, "testcase", name=CLUSTER_CASE, classname=report.cluster)
        ET.SubElement(case, "error", type="not_looked_at", message=_line(report.error)).text = report.error
    for service in report.services:
        suite.append(_case(report, service))
    suites = ET.Element("testsuites", name="istio_affinity")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _outcome(service: ServiceReport) -> str | None:
    """The element for the outcome of the test case; None if it passed."""
    if service.status == RED:
        return "error" if service.verdict == ERROR else "failure"
    return "skipped" if service.status in (WAIVED, NOT_APPLICABLE) else None


def _case(report: Report, service: ServiceReport) -> ET.Element:
    seconds = service.live.elapsed if service.live and service.live.elapsed is not None and service.live.elapsed >= 0 else 0.0
    # A dot would turn the part before it into a package.
    classname = ".".join(part.replace(".", "_") for part in (report.cluster, service.namespace))
    port = f":{service.port}" if service.port is not None else ""
    case = ET.Element("testcase", name=service.service + port, classname=classname, time=f"{seconds:.3f}")
    outcome = _outcome(service)
    if outcome:
        ET.SubElement(case, outcome, type=service.verdict, message=_line(service.why)).text = _details(service)
    if service.status == GREEN:
        ET.SubElement(case, "system-out").text = f"{service.verdict}: {service.why}"
    return case


def _details(service: ServiceReport) -> str:
    lines = [f"{service.status}: {service.verdict}", service.why]
    if service.since:
        lines.append(f"broken since {service.since}")
    for finding in service.findings:
        lines.append(f"{finding.id} ({finding.severity}): {finding.title}")
        if finding.fix:
            lines.append(finding.fix.body)
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())
