# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWX and ansible-builder are given: the image's definition, the survey, what a project update installs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from harness import BIN, ROOT, clean_environment, run


def test_ansible_builder_accepts_the_image(staged: Path, artifact: Path, tmp_path: Path):
    """The build context has this collection's artifact, what its modules need, and Helm, which is checked before it is unpacked."""
    for name in ("execution-environment.yml", "meta/ee-requirements.txt", "collections/requirements.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / artifact.name).write_bytes(artifact.read_bytes())
    context = tmp_path / "context"
    create = (BIN / "ansible-builder", "create", "--output-filename=Containerfile", "--context", context)
    run(*create, cwd=tmp_path, env=clean_environment(HOME=str(tmp_path))).expect()
    assert (context / f"_build/artifact/{artifact.name}").read_bytes() == artifact.read_bytes()
    assert "kubernetes" in (context / "_build/requirements.txt").read_text()
    steps = (context / "Containerfile").read_text()
    assert "ansible-galaxy collection install /artifact/meshops-istio-*.tar.gz" in steps
    helm = next(line for line in steps.splitlines() if "get.helm.sh" in line)
    assert 0 < helm.index("sha256sum --check") < helm.index("tar --extract")
    assert steps.index(helm) < steps.index("\nUSER 1000")
    run("sh", "-n", stdin=helm.removeprefix("RUN ")).expect()
    definition = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    definition["images"] = "none"
    (tmp_path / "execution-environment.yml").write_text(yaml.safe_dump(definition))
    run(*create, cwd=tmp_path, env=clean_environment(HOME=str(tmp_path))).expect(1)


def test_requirements_agree():
    """A project update installs what the artifact depends on."""
    wanted = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    listed = yaml.safe_load((ROOT / "collections/requirements.yml").read_text())["collections"]
    assert {one["name"]: one["version"] for one in listed} == wanted


# What a question's answer is in a job, by the question's type.
ANSWERS = {"integer": {"int", "float"}, "multiplechoice": {"str", "bool"}, "multiselect": {"list"}, "text": {"str"}}


def disagreements(survey: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """What keeps a survey from being about options as they are."""
    found = []
    for question in survey["spec"]:
        name, option = question["variable"], options.get(question["variable"])
        if option is None:
            found.append(f"{name} is no option")
            continue
        words = {"true", "false"} if option["type"] == "bool" else set(option.get("choices", ()))
        faults = {
            "answers another type": option["type"] not in ANSWERS[question["type"]],
            "has another default": str(question["default"]).lower() != str(option["default"]).lower(),
            "offers other choices": bool(question["choices"]) and set(question["choices"]) != words,
        }
        found += [f"{name} {fault}" for fault, present in faults.items() if present]
    return found


def test_survey_asks_for_options_of_verify():
    survey = json.loads((ROOT / "docs/awx-survey.json").read_text())
    options = yaml.safe_load((ROOT / "roles/istio_affinity/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert len(survey["spec"]) > 3
    assert survey.keys() == {"name", "description", "spec"}
    fields = {"question_name", "question_description", "required", "type", "variable", "min", "max", "default", "choices"}
    assert all(question.keys() == fields for question in survey["spec"])
    assert not disagreements(survey, options)
    for key, value in (("variable", "istio_affinity_none"), ("default", 21), ("type", "text"), ("choices", ["x"])):
        wrong = copy.deepcopy(survey)
        wrong["spec"][1][key] = value
        assert disagreements(wrong, options), key
