# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a text matches an expression of Envoy's RE2 library. Pure.

Anybody who may write a VirtualService writes the expression, and Python's `re` needs exponential time for some of them.
google-re2 is used where it is installed. Else the expression becomes a set of states that are followed in step, as in RE2,
in time proportional to states times text (https://swtch.com/~rsc/regexp/regexp2.html). The syntax is the common part of
https://github.com/google/re2/wiki/Syntax; whatever else an expression contains makes the answer unknown.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

google: Any = None
with contextlib.suppress(ImportError):
    google = importlib.import_module("re2")
# Other packages of this name fall back to Python's `re`; only Google's has options.
if not hasattr(google, "Options"):
    google = None

# Larger expressions are left unknown.
MOST_DEPTH, MOST_STATES, MOST_REPEATS = 50, 5_000, 1_000
DIGITS, SPACES = frozenset("0123456789"), frozenset("\t\n\f\r ")
WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") | DIGITS
CLASSES = {"d": DIGITS, "s": SPACES, "w": WORD}
CONTROLS = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
PUNCTUATION = frozenset("\\!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~ ")


class UnknownSyntaxError(Exception):
    """The expression has something that is not evaluated here."""


Accepts = Callable[[str], bool]
# A state: accepts a character and goes on to the next one, or goes on at once to several. `START` and `END` are empty.
START, END = "start", "end"


@dataclass
class Program:
    """The states: each is what it needs (a test of a character, an anchor or None) and where it leads."""

    needs: list[Accepts | str | None] = field(default_factory=list)
    leads: list[list[int]] = field(default_factory=list)

    def add(self, need: Accepts | str | None, *leads: int) -> int:
        if len(self.needs) >= MOST_STATES:
            raise UnknownSyntaxError("too large")
        self.needs.append(need)
        self.leads.append(list(leads))
        return len(self.needs) - 1


@dataclass
class Budget:
    """The states times characters that may still be followed: about half a second for all expressions of a virtual host."""

    steps: int = 1_000_000


def matches(expression: str, text: str, budget: Budget) -> bool | None:
    """Whether the whole text matches; None if that is not known."""
    if google is not None:
        return _by_google(expression, text)
    try:
        program, start, final = _compiled(expression)
    except UnknownSyntaxError:
        return None
    steps = len(program.needs) * (len(text) + 1)
    if steps > budget.steps or ("(?" in expression and not text.isascii()):
        # Without case, RE2 also takes letters outside ASCII for some within it.
        return None
    budget.steps -= steps
    return _run(program, start, final, text)


def _by_google(expression: str, text: str) -> bool | None:
    options = google.Options()
    options.log_errors = False
    try:
        return google.compile(expression, options).fullmatch(text) is not None
    except google.error:
        return None


def _run(program: Program, start: int, final: int, text: str) -> bool:
    current = _closure(program, [start], 0, len(text))
    for position, character in enumerate(text):
        stepped = [program.leads[state][0] for state in current if callable(need := program.needs[state]) and need(character)]
        current = _closure(program, stepped, position + 1, len(text))
        if not current:
            return False
    return final in current


def _closure(program: Program, states: Iterable[int], position: int, length: int) -> set[int]:
    """All states that are reached without a character."""
    reached: set[int] = set()
    waiting = list(states)
    while waiting:
        state = waiting.pop()
        if state in reached:
            continue
        reached.add(state)
        need = program.needs[state]
        if need is None or (need == START and position == 0) or (need == END and position == length):
            waiting.extend(program.leads[state])
    return reached


@lru_cache(maxsize=256)
def _compiled(expression: str) -> tuple[Program, int, int]:
    parser = _Parser(expression)
    start, final = parser.alternatives(0)
    if parser.rest():
        raise UnknownSyntaxError("a closing bracket too many")
    return parser.program, start, final


class _Parser:
    """From the expression to states, piece by piece; a piece is its first state and its last, which leads nowhere yet."""

    def __init__(self, expression: str) -> None:
        self.text = expression
        self.place = 0
        self.program = Program()
        self.fold = self.dot_all = False

    def rest(self) -> str:
        return self.text[self.place :]

    def take(self, *expected: str) -> str:
        """The first of these texts that comes next, taken; empty if none does."""
        found = next((each for each in expected if self.text.startswith(each, self.place)), "")
        self.place += len(found)
        return found

    def one(self) -> str:
        if self.place >= len(self.text):
            raise UnknownSyntaxError("it ends early")
        self.place += 1
        return self.text[self.place - 1]

    def alternatives(self, depth: int) -> tuple[int, int]:
        if depth > MOST_DEPTH:
            raise UnknownSyntaxError("too deep")
        flags = (self.fold, self.dot_all)
        last = self.program.add(None)
        first = self.program.add(None)
        while True:
            start, end = self.sequence(depth)
            self.program.leads[first].append(start)
            self.program.leads[end].append(last)
            if not self.take("|"):
                break
        self.fold, self.dot_all = flags
        return first, last

    def sequence(self, depth: int) -> tuple[int, int]:
        start = end = self.program.add(None)
        while self.place < len(self.text) and self.text[self.place] not in "|)":
            begin = self.place
            piece = self.atom(depth)
            low, high = self.repeats()
            first, last = self.repeated(piece, (begin, self.place), low, high, depth)
            self.program.leads[end].append(first)
            end = last
        return start, end

    def repeats(self) -> tuple[int, int | None]:
        low, high = 1, 1
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        taken = self.take(*simple)
        bounds = simple.get(taken) or self.counted()
        if bounds is None:
            return low, high
        self.take("?")
        if self.take("*", "+", "?") or self.counted():
            raise UnknownSyntaxError("a repetition of a repetition")
        return bounds

    def counted(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}` or `{2,5}`; other braces are characters."""
        if not self.rest().startswith("{"):
            return None
        inner, closing, _rest = self.rest()[1:].partition("}")
        low, comma, high = inner.partition(",")
        if not closing or not low.isascii() or not low.isdigit() or (high and not (high.isascii() and high.isdigit())):
            return None
        self.place += len(inner) + 2
        least, most = int(low[:6]), int(high[:6]) if high else None if comma else int(low[:6])
        if least > MOST_REPEATS or (most is not None and not least <= most <= MOST_REPEATS):
            raise UnknownSyntaxError("too many repetitions")
        return least, most

    def repeated(self, piece: tuple[int, int], source: tuple[int, int], low: int, high: int | None, depth: int) -> tuple[int, int]:
        """The piece as often as wanted. Copies are parsed again from the source."""
        if (low, high) == (1, 1):
            return piece
        after = self.place
        copies = [piece]
        for _copy in range(max(low, high or 0, 1) - 1):
            self.place = source[0]
            copies.append(self.atom(depth))
        self.place = after
        start = end = self.program.add(None)
        last = self.program.add(None)
        for number, (first, final) in enumerate(copies):
            if number >= low:
                self.program.leads[end].append(last)
            self.program.leads[end].append(first)
            end = final
            if high is None and number + 1 == len(copies):
                self.program.leads[final].append(first)
        if low < len(copies) and high == 0:
            self.program.leads[start] = []
            end = start
        self.program.leads[end].append(last)
        return start, last

    def atom(self, depth: int) -> tuple[int, int]:
        if self.counted():
            raise UnknownSyntaxError("nothing to repeat")
        character = self.one()
        if character == "(":
            return self.group(depth)
        if character == "[":
            return self.testing(self.bracket())
        if character == ".":
            return self.testing((lambda _given: True) if self.dot_all else (lambda given: given != "\n"))
        if character in "^$":
            return self.anchor(START if character == "^" else END)
        if character in "*+?":
            raise UnknownSyntaxError("nothing to repeat")
        if character == "\\":
            return self.escape()
        return self.literal(character)

    def group(self, depth: int) -> tuple[int, int]:
        if self.take("?"):
            if self.take("P<", "<"):
                name, closing, _rest = self.rest().partition(">")
                if not closing or not name.isidentifier():
                    raise UnknownSyntaxError("a group's name")
                self.place += len(name) + 1
            elif not self.take(":"):
                return self.flags(depth)
        piece = self.alternatives(depth + 1)
        if not self.take(")"):
            raise UnknownSyntaxError("a bracket is not closed")
        return piece

    def flags(self, depth: int) -> tuple[int, int]:
        """`(?i)` for the rest of the group, or `(?i:…)`."""
        before = (self.fold, self.dot_all)
        on = True
        while (flag := self.one()) not in "):":
            if flag == "-":
                on = False
            elif flag == "i":
                self.fold = on
            elif flag == "s":
                self.dot_all = on
            else:
                raise UnknownSyntaxError(f"the flag {flag}")
        if flag == ")":
            if self.take("*", "+", "?") or self.counted():
                raise UnknownSyntaxError("nothing to repeat")
            state = self.program.add(None)
            return state, state
        piece = self.alternatives(depth + 1)
        if not self.take(")"):
            raise UnknownSyntaxError("a bracket is not closed")
        self.fold, self.dot_all = before
        return piece

    def escape(self) -> tuple[int, int]:
        character = self.one()
        if character.lower() in CLASSES:
            return self.testing(_class(character))
        if character in "Az":
            return self.anchor(START if character == "A" else END)
        return self.literal(_escaped(character))

    def bracket(self) -> Accepts:
        inverted = bool(self.take("^"))
        tests: list[Accepts] = []
        first = True
        while first or self.rest()[:1] != "]":
            first = False
            if self.rest().startswith(("[:", "[.", "[=")):
                raise UnknownSyntaxError("a named class")
            low = self.one()
            if low == "\\":
                low = self.one()
                if low.lower() in CLASSES:
                    tests.append(_class(low))
                    continue
                low = _escaped(low)
            tests.append(self.span(low))
        self.one()
        return lambda given: any(test(given) for test in tests) != inverted

    def span(self, low: str) -> Accepts:
        """A character of a class, or a range of them."""
        high = low
        if self.rest().startswith("-") and self.rest()[1:2] not in ("]", ""):
            self.one()
            high = self.one()
            if high == "\\":
                high = _escaped(self.one())
        if high < low:
            raise UnknownSyntaxError("a range that ends before it starts")
        if self.fold:
            return lambda given: any(low <= each <= high for each in (given, given.lower(), given.upper()))
        return lambda given: low <= given <= high

    def literal(self, character: str) -> tuple[int, int]:
        if self.fold:
            if not character.isascii():
                raise UnknownSyntaxError("letters outside ASCII without case")
            return self.testing(lambda given: given.isascii() and given.lower() == character.lower())
        return self.testing(lambda given: given == character)

    def testing(self, test: Accepts) -> tuple[int, int]:
        last = self.program.add(None)
        return self.program.add(test, last), last

    def anchor(self, kind: str) -> tuple[int, int]:
        last = self.program.add(None)
        return self.program.add(kind, last), last


def _class(letter: str) -> Accepts:
    members = CLASSES[letter.lower()]
    return (lambda given: given not in members) if letter.isupper() else (lambda given: given in members)


def _escaped(character: str) -> str:
    if character in CONTROLS:
        return CONTROLS[character]
    if character in PUNCTUATION:
        return character
    raise UnknownSyntaxError(f"\\{character}")
