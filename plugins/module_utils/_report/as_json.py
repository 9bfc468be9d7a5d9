# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report as JSON, and back. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import json

from ansible_collections.meshops.istio.plugins.module_utils._report.model import SCHEMA_VERSION, Report
from ansible_collections.meshops.istio.plugins.module_utils._report.reading import read


def to_json(report: Report) -> str:
    return json.dumps(report, default=vars, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(content: str) -> Report | None:
    """None if the content is not a report of this version."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION or not isinstance(value.get("cluster"), str):
        return None
    return read(Report, value)
