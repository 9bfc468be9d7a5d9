# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Text of other people's objects that users paste: into a shell, into YAML, into an inventory. Pure.

Everyone who may create an object in a cluster chooses its text, and the user who runs a printed command is an administrator. So this
is the only place that makes commands and YAML of such text: names must be names, words are quoted, and text that a terminal or
Ansible would interpret is not printed at all.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, NewType

from ansible.module_utils.common.yaml import yaml_dump

from ansible_collections.meshops.istio.plugins.module_utils._model import Key

# A line for a shell that was made here.
Line = NewType("Line", str)

# The kinds that a command names, as kubectl knows them.
KINDS = ("deployment", "statefulset", "daemonset", "pod", "service", "destinationrule", "virtualservice", "sidecar", "envoyfilter")
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# RFC 9110, 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LONGEST_NAME = 253
# What Ansible would evaluate where the text is pasted into a play or an inventory.
_TEMPLATES = ("{{", "{%", "{#")


def is_dns_name(text: object) -> bool:
    """Whether the text is a DNS-1123 subdomain, as almost all names of Kubernetes are."""
    return isinstance(text, str) and len(text) <= _LONGEST_NAME and _DNS_NAME.fullmatch(text) is not None


def is_token(text: object) -> bool:
    """Whether the text is an HTTP token, as the names of headers and cookies are."""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


def is_key_name(kind: str, name: object) -> bool:
    """Whether a key of this type may have this name: a token, or in a query any visible ASCII text."""
    if kind == "source_ip":
        return name is None
    if kind == "query":
        return isinstance(name, str) and name != "" and all("!" <= letter <= "~" for letter in name)
    return is_token(name)


def is_key(key: Key) -> bool:
    return is_key_name(key.type, key.name)


def printable(text: str) -> str:
    """The text with control characters as escapes, which a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode() for letter in text)


def _inert(text: str) -> bool:
    """Whether neither a terminal nor Ansible does anything with the text."""
    return text.isascii() and all(letter.isprintable() for letter in text) and not any(opening in text for opening in _TEMPLATES)


def shell_line(*words: str) -> Line | None:
    """A command with its words quoted; None if a word would do something where it is pasted."""
    return Line(shlex.join(words)) if all(map(_inert, words)) else None


def kubectl(verb: str, kind: str, namespace: object, name: object, *options: str) -> Line | None:
    """A command on one object; None for a kind or a name that cannot be one."""
    if kind.lower() not in KINDS or not is_dns_name(namespace) or not is_dns_name(name):
        return None
    return shell_line("kubectl", "-n", str(namespace), *verb.split(), kind.lower(), str(name), *options)


def as_json(value: Any) -> str:
    """JSON for a command: ASCII, on one line."""
    return json.dumps(value)


def as_yaml_text(value: Any) -> str | None:
    """YAML for a file; None if a value would do something where it is pasted."""
    text = str(yaml_dump(value, sort_keys=False, width=160))
    return text if all(map(_inert, text.split("\n"))) else None


def inventory_value(text: str) -> str:
    """A string in YAML of Ansible, which does not evaluate it. A token cannot contain a template."""
    return json.dumps(text) if is_token(text) else f"!unsafe {json.dumps(text)}"
