# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON schema of a report, from the classes that it is made of.

  .venv/bin/python tests/report_schema.py >docs/report.schema.json       after a change of _report/model.py

A test compares the published file with this.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader([str(Path(__file__).resolve().parent.parent / "collections")])

from ansible_collections.meshops.istio.plugins.module_utils._report.model import Report, Rule

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """Closed: every key is required, and no other is allowed."""
    found: dict[str, Any] = {}
    _define(Report, found)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://github.com/meshops/istio/blob/main/docs/report.schema.json",
        "title": "Report of meshops.istio.istio_affinity_report",
        "$ref": "#/$defs/Report",
        "$defs": dict(sorted(found.items())),
    }


def _define(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    if kind.__name__ not in found:
        found[kind.__name__] = {}
        hints = typing.get_type_hints(kind, include_extras=True)
        found[kind.__name__] = {
            "type": "object",
            "description": (kind.__doc__ or "") if not (kind.__doc__ or "").startswith(f"{kind.__name__}(") else "",
            "properties": {field.name: _of(hints[field.name], found) for field in dataclasses.fields(kind)},
            "required": [field.name for field in dataclasses.fields(kind)],
            "additionalProperties": False,
        }
        if not found[kind.__name__]["description"]:
            del found[kind.__name__]["description"]
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _of(hint: Any, found: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        more: dict[str, Any] = {}
        for extra in arguments[1:]:
            value = list(extra.value) if isinstance(extra, Rule) and isinstance(extra.value, tuple) else getattr(extra, "value", extra)
            more[extra.keyword if isinstance(extra, Rule) else "description"] = value
        return _of(arguments[0], found) | more
    if origin in (typing.Union, types.UnionType):
        options = [_of(argument, found) for argument in arguments]
        if all(option.keys() == {"type"} for option in options):
            return {"type": [option["type"] for option in options]}
        return {"anyOf": options}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], found)}
    return {"type": PLAIN[hint]} if hint in PLAIN else _define(hint, found)


def published() -> str:
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(published())
