# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the table of variables into each role's README.md from its argument specs (`make docs`); with --check reports READMEs that are out of date.

The table stands between two markers. A README without them gets a section at its end.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from antsibull_docs_parser import dom
from antsibull_docs_parser.parser import Context, parse

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- variables -->", "<!-- /variables -->"
SECTION = f"\n## Variables\n\n{START}\n{END}\n"


def table(options: dict[str, Any]) -> str:
    rows = ["| name | type | default | description |", "|---|---|---|---|", *_rows(options)]
    return "".join(f"{row}\n" for row in rows)


def _rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        kind = f"list of {option['elements']}" if option["type"] == "list" else option["type"]
        cells = (f"`{prefix}{name}`", kind, _default(option), _description(option))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield from _rows(option.get("options") or {}, f"{prefix}{name}{'[]' if option['type'] == 'list' else ''}.")


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    if "default" not in option:
        return ""
    value = option["default"]
    return f"`{value if value and isinstance(value, str) else json.dumps(value, ensure_ascii=False)}`"


def _description(option: dict[str, Any]) -> str:
    given = option["description"]
    text = " ".join("".join(_plain(part) for part in paragraph) for paragraph in parse([given] if isinstance(given, str) else given, Context()))
    choices = ", ".join(f"`{choice}`" for choice in option.get("choices") or ())
    which = "Any" if option["type"] == "list" else "One"
    return re.sub(r"\s+", " ", text) + (f" {which} of {choices}." if choices else "")


# Ansible's markup as Markdown, as far as roles use it.
MARKUP: dict[type, Callable[[Any], str]] = {
    dom.TextPart: lambda part: part.text,
    dom.BoldPart: lambda part: f"**{part.text}**",
    dom.CodePart: lambda part: f"`{part.text}`",
    dom.OptionNamePart: lambda part: f"`{part.name}`" if part.value is None else f"`{part.name}: {part.value}`",
    dom.OptionValuePart: lambda part: f"`{part.value}`",
    dom.EnvVariablePart: lambda part: f"`{part.name}`",
    dom.ModulePart: lambda part: f"`{part.fqcn}`",
    dom.PluginPart: lambda part: f"`{part.plugin.fqcn}`",
    dom.LinkPart: lambda part: f"[{part.text}]({part.url})",
}


def _plain(part: dom.AnyPart) -> str:
    if type(part) not in MARKUP:
        sys.exit(f"{part} is markup that .ci/role_variables.py does not know. Next: add it to MARKUP.")
    return MARKUP[type(part)](part)


def readme(role: Path) -> str:
    """The role's README.md with the current table."""
    text = (role / "README.md").read_text()
    if START not in text:
        text += SECTION
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    before, _start, rest = text.partition(START)
    return f"{before}{START}\n{table(specs['argument_specs']['main']['options'])}{END}{rest.partition(END)[2]}"


def main() -> None:
    wanted = {role / "README.md": readme(role) for role in sorted((ROOT / "roles").iterdir())}
    if "--check" in sys.argv[1:]:
        old = [str(path.relative_to(ROOT)) for path, text in wanted.items() if path.read_text() != text]
        if old:
            sys.exit(f"The table of variables is out of date in {', '.join(old)}. Next: make docs")
        return
    for path, text in wanted.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
