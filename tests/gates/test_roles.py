# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role's argument specs, defaults and uses agree; the action group holds every module."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, nodes

from harness import BIN, ROOT, Ran, clean_environment, run

ROLES = sorted(path.parent.parent for path in (ROOT / "roles").glob("*/tasks/main.yml"))


def _load(path: Path) -> dict[str, object]:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def disagreements(role: str, defaults: dict, options: dict, used: set[str]) -> list[str]:
    """Everything that keeps a role's specs from being the whole truth about its variables."""
    found = [f"{name} has a default and no argument spec" for name in defaults if name not in options]
    found += [f"{name} is used and has no argument spec" for name in sorted(used - set(options))]
    for name, option in options.items():
        # As text, because True == 1 in Python.
        agrees = repr(option.get("default")) == repr(defaults[name]) if name in defaults else "default" not in option
        faults = {
            "does not start with the role's name": not name.startswith(f"{role}_"),
            "has no type or no description": not option.get("type") or not option.get("description"),
            "does not say what its list holds": option.get("type") == "list" and not option.get("elements"),
            "has another default than in its argument spec": not agrees,
            "is neither required nor has a default": name not in defaults and not option.get("required"),
            "is used nowhere in the role": name not in used,
        }
        found += [f"{name} {fault}" for fault, present in faults.items() if present]
    return found


def _used(role: Path) -> set[str]:
    """The role's own variables in its tasks, handlers, vars and templates; module and role names have a dot before them or a colon after."""
    word = re.compile(rf"(?<![\w.]){role.name}_\w+\b(?!:)")
    parts = [path for folder in ("tasks", "handlers", "vars", "templates") for path in (role / folder).rglob("*") if path.is_file()]
    return {name for path in parts for name in word.findall(path.read_text())}


def test_there_are_roles():
    assert ROLES


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_specs_equal_defaults(role: Path):
    options = _load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert not disagreements(role.name, _load(role / "defaults/main.yml"), options, _used(role))


def test_disagreements_are_found():
    option = {"type": "str", "description": "x", "default": "a"}
    assert not disagreements("r", {"r_a": "a"}, {"r_a": option}, {"r_a"})
    for defaults, options, used in (
        ({"r_a": "b"}, {"r_a": option}, {"r_a"}),
        ({"r_a": "a", "r_b": 1}, {"r_a": option}, {"r_a"}),
        ({}, {"r_a": option}, {"r_a"}),
        ({"r_a": "a"}, {"r_a": {**option, "type": None}}, {"r_a"}),
        ({"r_a": 1}, {"r_a": {**option, "default": True}}, {"r_a"}),
        ({"a": "a"}, {"a": option}, {"a"}),
        ({"r_a": "a"}, {"r_a": option}, {"r_a", "r_b"}),
        ({"r_a": "a"}, {"r_a": option}, set()),
    ):
        assert disagreements("r", defaults, options, used)


def test_action_group_holds_every_module_that_reaches_a_cluster():
    """And no other, as a module without these options refuses the defaults that plays set for the group."""
    modules = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if "k8s_auth_options" in path.read_text())
    assert modules
    assert _load(ROOT / "meta/runtime.yml")["action_groups"]["istio"] == modules


def test_every_role_has_what_a_role_has():
    wanted = ("README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml")
    assert not [str(role / name) for role in ROLES for name in wanted if not (role / name).is_file()]


# -- types --

# What an extra variable, a survey's answer and an inventory make of a value.
BOOLS = {"false": False, "False": False, "no": False, "off": False, "0": False, "true": True, "True": True, "yes": True, "on": True, "1": True}
INTS = {"6": 6, " 7": 7}
WRONG = {"bool": "perhaps", "int": "6.5"}
WHOLE = re.compile(r"\{\{ \w+ \}\}")
# Values under these keys are expressions without braces.
EXPRESSIONS = ("when", "until", "that", "failed_when", "changed_when")
# Variables for other tasks and roles; everything else that is a whole value is converted, or refused, by the module that receives it.
RESCUED = {"ansible.builtin.debug": {"msg": "REFUSED {{ ansible_failed_task.name }}: {{ ansible_failed_result.msg }} END"}}
PASSED_ON = ("vars", "ansible.builtin.set_fact")


def _options(role: Path) -> dict[str, str]:
    """Its options of type bool or int."""
    options = _load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return {name: option["type"] for name, option in options.items() if option["type"] in ("bool", "int")}


def _templates(node: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every template of a YAML file with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _templates(value, (*keys, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _templates(value, keys)
    elif isinstance(node, str):
        yield ("{{ " + node + " }}" if keys and keys[-1] in EXPRESSIONS and "{{" not in node else node), keys


def unconverted(text: str, options: dict[str, str]) -> list[str]:
    """The options that a template uses other than through the filter of their type."""
    tree = Environment(extensions=["jinja2.ext.do"]).parse(text)  # noqa: S701 - parsed only
    converted = {id(found.node) for found in tree.find_all(nodes.Filter) if isinstance(found.node, nodes.Name) and options.get(found.node.name) == found.name}
    return [found.name for found in tree.find_all(nodes.Name) if found.name in options and id(found) not in converted]


def unconverted_in(role: Path) -> list[str]:
    options, found = _options(role), []
    for path in sorted(path for folder in ("tasks", "handlers", "vars", "templates") for path in (role / folder).rglob("*") if path.is_file()):
        text = path.read_text()
        for template, keys in _templates(yaml.safe_load(text)) if path.suffix == ".yml" else [(text, ())]:
            for_a_module = path.parent.name == "tasks" and WHOLE.fullmatch(template) and not set(keys) & set(PASSED_ON)
            found += [] if for_a_module else [f"{path.relative_to(role)}: {name}" for name in unconverted(template, options)]
    return found


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_bools_and_ints_are_converted(role: Path):
    """A string is true, and ansible-core 2.16 has no other type for `-e x=false` and surveys: each use goes through the filter of the option's type."""
    assert not unconverted_in(role)


def test_unconverted_are_found():
    options = {"r_a": "bool", "r_n": "int"}
    for text in ("{{ r_a | bool }}", "{{ [r_n | int // 2, 1] | max }}", "r_a", "{{ 'r_a' }}", "{% if not r_a | bool %}{{ 5 }}{% endif %}", "{{ x.r_a }}"):
        assert not unconverted(text, options), text
    for text in ("{{ r_a }}", "{{ r_n | bool }}", "{{ r_n // 2 }}", "{{ not r_a }}", "{{ [r_n] | map('int') }}", "{% if r_a %}{% endif %}"):
        assert unconverted(text, options), text
    assert dict(_templates([{"when": ["r_a"], "x.y.z": {"a": "{{ r_n }}"}}])) == {"{{ r_a }}": ("when",), "{{ r_n }}": ("x.y.z", "a")}


def _play(folder: Path, tasks: list[dict[str, object]]) -> Ran:
    playbook = folder / "play.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]))
    environment = clean_environment(ANSIBLE_COLLECTIONS_PATH=str(ROOT / "collections"), ANSIBLE_HOME=str(folder / "home"))
    return run(BIN / "ansible-playbook", "--inventory", "localhost,", playbook, cwd=folder, env=environment)


def test_tasks_see_what_the_argument_spec_says(tmp_path: Path):
    """Every bool and int of every role as strings, through the filter that the test above demands of each use."""
    expressions, expected = [], []
    for name, kind in ((name, kind) for role in ROLES for name, kind in _options(role).items()):
        for text, value in (BOOLS if kind == "bool" else INTS).items():
            expressions.append(f"('{name}', {text!r} | {kind})")
            expected.append([name, value])
    assert len(expected) > 150
    target = tmp_path / "seen.json"
    content = "{{ [" + ", ".join(expressions) + "] | to_json }}"
    _play(tmp_path, [{"ansible.builtin.copy": {"content": content, "dest": str(target), "mode": "0600"}}]).expect()
    assert [[name, repr(value)] for name, value in json.loads(target.read_text())] == [[name, repr(value)] for name, value in expected]


@pytest.mark.slow
def test_other_values_are_refused_by_name(tmp_path: Path):
    """Before the role's first task, all of them in one message."""
    wrong = [(role, {name: WRONG[kind] if word is None else word for name, kind in _options(role).items()}) for role in ROLES for word in ("", None)]
    included = [{"ansible.builtin.include_role": {"name": f"meshops.istio.{role.name}"}, "vars": variables} for role, variables in wrong]
    tasks = [{"block": [task], "rescue": [RESCUED]} for task in included]
    ran = _play(tmp_path, tasks).expect()
    told = re.findall(r"REFUSED (.*?) END", ran.stdout)
    assert len(told) == len(wrong), ran
    for (_role, variables), message in zip(wrong, told, strict=True):
        assert "Validating arguments against arg spec" in message
        assert not [name for name in variables if name not in message]
