# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rooms of plugins/module_utils: which may import which, and how large a file and a function may be."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from harness import ROOT, clean_environment, project_files

UTILS = ROOT / "plugins/module_utils"
PREFIX = "ansible_collections.meshops.istio.plugins.module_utils."

# Each room with the rooms that it may import. What stands further down knows nothing of what stands above it.
MAY_IMPORT: dict[str, set[str]] = {
    "_model": set(),
    "_secrets": {"_model"},
    "_membership": {"_model"},
    "_requests": {"_model"},
    "_istio": {"_model"},
    "_envoy": {"_model"},
    "_verdict": {"_envoy", "_istio", "_membership", "_model", "_requests"},
    "_options": {"_model", "_requests", "_secrets", "_verdict"},
    "_result": {"_model", "_requests", "_verdict"},
    "_causes": {"_envoy", "_istio", "_model", "_requests", "_verdict"},
    "_report": {"_model"},
    "_cluster": {"_istio", "_membership", "_model", "_secrets"},
    "_probe": {"_cluster", "_envoy", "_membership", "_model", "_requests"},
    "_check": {"_causes", "_cluster", "_envoy", "_membership", "_model", "_options", "_probe", "_requests", "_result", "_verdict"},
    "_inspection": {"_causes", "_cluster", "_envoy", "_istio", "_membership", "_model", "_options", "_probe", "_requests", "_result", "_verdict"},
}
# Only these talk to the API server or to pods; everything else is pure, except the two stories, which drive them.
WITH_IO = {"_cluster", "_probe"}
STORIES = {"_check", "_inspection"}
NEEDS_KUBERNETES_CORE = "_cluster.connection"
# Pure code touches no network, process or file and does not wait.
IMPURE = {"http", "kubernetes", "requests", "select", "socket", "subprocess", "time", "urllib3", "websocket"}
# The store of reports is files, and its lock waits.
REPORT_STORE = "_report.store"

DOCUMENTATION = {"DOCUMENTATION", "EXAMPLES", "RETURN"}
MOST_LINES_OF_CODE = 400
MOST_LINES_OF_A_FUNCTION = 40
FOLDERS = ("plugins", ".ci", "lab", "roles", "benchmarks")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(UTILS).with_suffix("").parts).removesuffix(".__init__")


def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(UTILS.rglob("*.py")) if name_of(path) != "__init__"}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of what a file imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (entry.name for entry in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{entry.name}" for entry in node.names)


def own_imports(source: str, known: set[str]) -> set[str]:
    """The module utils among them, as `_room.file`."""
    found = set()
    for full in imported(ast.parse(source)):
        if full.startswith(PREFIX):
            name = full.removeprefix(PREFIX)
            found.add(name if name in known else name.rpartition(".")[0])
    return found


def test_every_room_has_its_place():
    assert {room_of(name) for name in modules()} == MAY_IMPORT.keys()


def test_imports_go_down_only():
    known = set(modules())
    rooms = {name: {room_of(other) for other in own_imports(path.read_text(), known)} - {room_of(name)} for name, path in modules().items()}
    assert {name: upwards for name, imports in rooms.items() if (upwards := imports - MAY_IMPORT[room_of(name)])} == {}
    # Nor is an import allowed that nothing needs.
    needed = {room: {other for name, imports in rooms.items() if room_of(name) == room for other in imports} for room in MAY_IMPORT}
    assert needed == MAY_IMPORT


def test_pure_rooms_reach_nothing():
    pure = {name: path for name, path in modules().items() if room_of(name) not in WITH_IO | STORIES and name != REPORT_STORE}
    assert not {room_of(name) for name in pure if MAY_IMPORT[room_of(name)] & (WITH_IO | STORIES)}
    reached = {name: {full.partition(".")[0] for full in imported(ast.parse(path.read_text()))} & IMPURE for name, path in pure.items()}
    assert {name: found for name, found in reached.items() if found} == {}


def test_no_room_and_no_file_imports_itself_by_a_detour():
    assert tuple(TopologicalSorter(MAY_IMPORT).static_order())
    files = {name: own_imports(path.read_text(), set(modules())) for name, path in modules().items()}
    assert tuple(TopologicalSorter(files).static_order())


def test_an_import_upwards_would_be_noticed():
    source = f"from {PREFIX}_probe import runner\nfrom {PREFIX}_probe.exec import Exec\n"
    assert own_imports(source, set(modules())) == {"_probe.runner", "_probe.exec"}
    assert not {"_probe"} <= MAY_IMPORT["_verdict"]


def test_only_the_connection_needs_kubernetes():
    """All other files can be imported, so tested, where neither kubernetes.core nor the Python client is installed."""
    program = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("kubernetes", "urllib3", "websocket", "requests") or name.startswith("ansible_collections.kubernetes"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Blocker())
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader([sys.argv[1]])
sys.meta_path.remove(blocker := next(finder for finder in sys.meta_path if isinstance(finder, Blocker)))
sys.meta_path.insert(0, blocker)
for name in sys.argv[2:]:
    importlib.import_module(name)
try:
    import kubernetes
except ImportError:
    print("imported", len(sys.argv) - 2)
"""
    names = [f"{PREFIX}{name}" for name in modules() if name != NEEDS_KUBERNETES_CORE]
    command = [sys.executable, "-c", program, str(ROOT / "collections"), *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(), timeout=120)
    assert (ran.stdout, ran.returncode) == (f"imported {len(names)}\n", 0), ran.stderr


# -- sizes --


def python_files() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py" and path.parts[0] in FOLDERS and not (ROOT / path).is_symlink()]


def documentation(tree: ast.Module) -> set[int]:
    """The lines of docstrings and of a plugin's DOCUMENTATION, EXAMPLES and RETURN."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        texts: list[ast.stmt] = []
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts.append(node)
        if isinstance(node, ast.Assign) and {target.id for target in node.targets if isinstance(target, ast.Name)} & DOCUMENTATION:
            texts.append(node)
        for text in texts:
            lines.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return lines


def code_lines(source: str) -> set[int]:
    """The lines with code: no blank ones, no comments, no documentation."""
    passed_over = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in passed_over:
            found.update(range(token.start[0], token.end[0] + 1))
    return found - documentation(ast.parse(source))


def long_functions(source: str) -> list[tuple[str, int]]:
    code = code_lines(source)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    sizes = [(node.name, len(code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))) for node in functions]
    return [(name, size) for name, size in sizes if size > MOST_LINES_OF_A_FUNCTION and name != "argument_spec"]


def test_files_and_functions_stay_small():
    files = python_files()
    assert {path.parts[0] for path in files} == set(FOLDERS)
    large = {str(path): size for path in files if (size := len(code_lines((ROOT / path).read_text()))) > MOST_LINES_OF_CODE}
    long = {str(path): found for path in files if (found := long_functions((ROOT / path).read_text()))}
    assert (large, long) == ({}, {})


def test_a_long_function_would_be_noticed():
    body = "    value = 1\n\n    # why\n" * MOST_LINES_OF_A_FUNCTION
    source = f'def long():\n    """What it does.\n\n    And more.\n    """\n{body}'
    assert long_functions(source) == [("long", MOST_LINES_OF_A_FUNCTION + 1)]
    assert long_functions(source.replace("def long", "def argument_spec")) == []
    assert len(code_lines(f'DOCUMENTATION = """\na\n"""\n{source}')) == MOST_LINES_OF_A_FUNCTION + 1
