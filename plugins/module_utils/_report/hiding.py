# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hashes session IDs, which may be live tokens. Hashes stay distinct, and the same from run to run. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from ansible_collections.meshops.istio.plugins.module_utils._report.assess import Entry

T = TypeVar("T")

# Fields with sentences, which may contain an ID. Names of pods and the like stay unchanged.
SENTENCES = frozenset({"msg", "detail", "reason", "title", "field", "value", "body", "why", "events", "source"})
# The sentences of `_verdict` and `_causes` that name sessions, also those that are not returned. An ID may contain newlines.
NAMED = (
    re.compile(r"(?s)(?<=session )(?!#).+?(?= landed on )"),
    re.compile(r"(?s)(?<=a change of the backends \().*?(?=\)(?:; |\. |$))"),
    re.compile(r"(?s)(?<=a change of the backends or of the gateway's pods \().*?(?=\)(?:; |\. |$))"),
    re.compile(r"(?s)(?<=^hosts of session )(?!#).+"),
)


def hasher(salt: bytes) -> Callable[[str], str]:
    """The same ID gives the same hash for as long as the salt is kept."""
    return lambda name: "#" + hmac.new(salt, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]


def hide(entry: Entry, hashed: Callable[[str], str]) -> Entry:
    """The entry without a session ID in the clear."""
    names = [session.id for session in entry.result.sessions] if entry.result else []
    names += [session.id for session in entry.static.sessions] if entry.static else []
    in_text = _replacer(names, hashed)
    result = entry.result
    if result:
        sessions = tuple(dataclasses.replace(session, id=hashed(session.id)) for session in result.sessions)
        result = dataclasses.replace(_in_sentences(result, in_text), sessions=sessions)
    static = entry.static
    if static:
        predicted = tuple(dataclasses.replace(session, id=hashed(session.id)) for session in static.sessions)
        static = dataclasses.replace(_in_sentences(static, in_text), sessions=predicted)
    return dataclasses.replace(entry, result=result, static=static, error=in_text(entry.error) if entry.error else entry.error)


def _replacer(names: Iterable[str], hashed: Callable[[str], str]) -> Callable[[str], str]:
    known = sorted({name for name in names if name}, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, known))})(?![\w-])") if known else None

    def replaced(sentence: str) -> str:
        if pattern:
            sentence = pattern.sub(lambda match: hashed(match.group()), sentence)
        for named in NAMED:
            sentence = named.sub(lambda match: ", ".join(_once(part, hashed) for part in match.group().split(", ")), sentence)
        return sentence

    return replaced


def _once(name: str, hashed: Callable[[str], str]) -> str:
    return name if name.startswith("#") or name == "…" else hashed(name)


def _in_sentences(value: T, replaced: Callable[[str], str], sentence: bool = False) -> T:
    """The same value with every sentence in it, however deep, replaced."""
    changed: object = value
    if isinstance(value, str):
        changed = replaced(value) if sentence else value
    elif isinstance(value, tuple):
        changed = tuple(_in_sentences(item, replaced, sentence) for item in value)
    elif isinstance(value, dict):
        changed = {name: _in_sentences(item, replaced, sentence) for name, item in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _in_sentences(getattr(value, field.name), replaced, field.name in SENTENCES) for field in dataclasses.fields(value)}
        changed = dataclasses.replace(value, **changes)
    return changed  # type: ignore[return-value]  # each branch returns what it was given
