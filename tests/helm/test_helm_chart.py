"""The chart is linted, and what it renders is what was looked at: golden files. See render.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml
from helm_python import HelmRenderError, HelmValuesError

from helm.render import CHART, EXAMPLE, HERE, chart, golden, golden_text, objects, readme_with_table, value_sets

SETS = value_sets()
PASSED_ON = "Passed on as it is."


@pytest.mark.parametrize("name", ["default", *SETS])
def test_lint_finds_nothing(name: str) -> None:
    for version in ("v1.28.0", "v1.34.0"):
        report = helm_python.lint(CHART, SETS.get(name, {}), strict=True, kube_version=version)
        assert (report["messages"], report["errors"]) == ([], [])


def test_an_older_kubernetes_is_refused() -> None:
    assert chart().metadata["kubeVersion"] == ">=1.28.0-0"


@pytest.mark.parametrize("name", SETS)
def test_what_is_rendered_is_what_was_looked_at(name: str) -> None:
    assert golden_text(name, SETS[name]) == golden(name).read_text(), "python -m tests.helm.render --write, then look"


def test_there_is_no_golden_file_without_values() -> None:
    assert {path.stem for path in (HERE / "golden").glob("*.yaml")} == set(SETS)


def test_an_upgrade_renders_as_an_install() -> None:
    values = SETS["streams"]
    assert chart().render(values, name="bars", is_upgrade=True) == chart().render(values, name="bars", is_install=True)


@pytest.mark.parametrize("name", SETS)
def test_objects_of_a_release_have_one_place_each(name: str) -> None:
    places = [(one["kind"], one["metadata"]["name"]) for one in objects(SETS[name])]
    assert len(places) == len(set(places))


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value of the schema with its path, branches among them."""
    for name, entry in schema.get("properties", {}).items():
        yield f"{path}{name}", entry
        yield from leaves(entry, f"{path}{name}.")


def given(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every path of values.yaml as deep as the schema knows it."""
    for name, value in values.items():
        yield f"{path}{name}"
        entry = schema["properties"].get(name, {})
        if "properties" in entry:
            yield from given(value, entry, f"{path}{name}.")


def test_values_and_schema_hold_the_same() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(given(values, schema)) == {path for path, _ in leaves(schema)} - {"global"}


def test_every_value_is_described_and_no_other_is_allowed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path, entry in [("", schema), *leaves(schema)]:
        assert entry["description"].endswith("."), path
        if entry.get("additionalProperties") is True:
            assert path == "global" or entry["description"].endswith(PASSED_ON), f"{path} lets anything through"
        if "properties" in entry:
            assert entry["additionalProperties"] is False, path


@pytest.mark.parametrize("wrong", [{"worker": {}}, {"workers": {"replica": 3}}, {"redis": {"tls": {"insecure": True}}}])
def test_a_misspelt_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((HelmValuesError, HelmRenderError), match="additional propert"):
        objects({**SETS["minimal"], **wrong})


def test_the_table_of_values_in_the_readme() -> None:
    assert (CHART / "README.md").read_text() == readme_with_table(), "python -m tests.helm.render --write"


def test_the_readmes_values_can_be_installed() -> None:
    """With what ``mdp keys`` prints, as the page says."""
    text = (CHART / "README.md").read_text()
    values = yaml.safe_load(text[text.index("```yaml") :].removeprefix("```yaml").split("```")[0])
    kinds = {one["kind"] for one in objects({**values, "job": SETS["streams"]["job"]})}
    assert {"Deployment", "ScaledObject", "TriggerAuthentication"} <= kinds


def test_the_readmes_first_command_gives_the_example() -> None:
    text = (CHART / "README.md").read_text()
    name, _, path = re.findall(r"--set-file '(.+)'", text)[0].partition("=")
    assert helm_python.parse_set_string(f"{name}=x") == {"app": {"files": {"bars.py": "x"}}}
    assert CHART.parents[1] / path == EXAMPLE / "bars.py"
