# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of every module, given as nothing, blank or of another type: a sentence that names the option, or it is accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import connection_spec
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError
from ansible_collections.meshops.istio.plugins.modules import istio_affinity_check, istio_affinity_info, istio_affinity_report

NOWHERE = {"host": "https://127.0.0.1:9", "api_key": "x"}
NEEDED = {
    istio_affinity_check: {**NOWHERE, "namespace": "shop", "service": "cart"},
    istio_affinity_info: NOWHERE,
    istio_affinity_report: {"cluster": "prod", "services": []},
}
VALUES: tuple[Any, ...] = ("", "  ", "a b\n", 0, -1, 1.5, float("nan"), True, None, [], [""], [None], {}, {"x": 1}, [{"x": ""}])


def paths(spec: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, option in spec.items():
        yield (*above, name)
        if "options" in option:
            yield from paths(option["options"], (*above, name))


CASES = [
    pytest.param(module, path, id=f"{module.__name__.rpartition('_')[2]}-{'.'.join(path)}")
    for module in NEEDED
    for path in paths(module.argument_spec())
    # Both modules connect in the same way, and each of these cases tries to.
    if module is istio_affinity_check or path[0] not in connection_spec()
]


def given(path: tuple[str, ...], value: Any, module: Any) -> dict[str, Any]:
    """The option with this value, beside what else is needed then."""
    spec, nested = module.argument_spec()[path[0]], value
    for name in reversed(path[1:]):
        others = {"via": {"host": "shop.example.com", "service": "gateway"}, "key": {"name": "user"}}.get(path[0], {})
        nested = {**others, name: nested}
    return {path[0]: [nested] if len(path) > 1 and spec["type"] == "list" else nested}


def unreachable(_module: Any) -> None:
    raise CheckError("api_unreachable", "There is no cluster here.")


@pytest.mark.parametrize(("module", "path"), CASES)
def test_an_option_of_nonsense_is_refused_in_words(
    module: Any, path: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = path[0] not in connection_spec()
    if own and hasattr(module, "connect"):
        monkeypatch.setattr(module, "connect", unreachable)
    for value in VALUES:
        arguments = NEEDED[module] | ({"dir": str(tmp_path)} if module is istio_affinity_report else {}) | given(path, value, module)
        with patch_module_args({"_ansible_check_mode": True, **arguments}), pytest.raises(SystemExit):
            module.main()
        result = json.loads(capfd.readouterr().out)
        where = f"{path} = {value!r}: {result.get('msg')}"
        assert "Traceback" not in json.dumps(result), where
        assert "Unexpected" not in result.get("msg", ""), where
        blank = isinstance(value, str) and not value.strip()
        if own and blank and module is not istio_affinity_report and path != ("session_ids",):
            assert result["failed"], where
            assert path[-1] in result["msg"], where


@pytest.mark.parametrize("folder", ["", "  "])
def test_reports_without_a_directory_are_refused(folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be in the current directory, where tidying up deletes old runs."""
    monkeypatch.chdir(tmp_path)
    with patch_module_args({**NEEDED[istio_affinity_report], "dir": folder}), pytest.raises(SystemExit):
        istio_affinity_report.main()
    assert json.loads(capfd.readouterr().out)["msg"] == "Option dir is empty. Next: name the directory for the reports, or leave the option out."
    assert list(tmp_path.iterdir()) == []


def test_the_case_that_was_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """`service: "{{ name | default('') }}"` ended in "Module failed: 'name'"."""
    with patch_module_args({**NOWHERE, "namespace": "shop", "service": ""}), pytest.raises(SystemExit):
        istio_affinity_check.main()
    assert json.loads(capfd.readouterr().out)["msg"] == "error: Option service is empty. Next: give a value, or leave the option out."
