"""Renders the chart in this process, without a cluster and without a helm binary.

``python -m tests.helm.render --write`` writes what tests compare with anew: golden/*.yaml and the table of values in the
chart's README. Look at the difference before you commit it.
"""

from __future__ import annotations

import argparse
import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parents[1] / "helm" / "market-data-pipeline"
EXAMPLE = CHART / "examples"
RELEASE, NAMESPACE = "bars", "md"
TABLE_BEGIN, TABLE_END = "<!-- values: written by tests/helm/render.py -->", "<!-- end of values -->"


@cache
def chart() -> helm_python.Chart:
    """The chart, loaded once."""
    return helm_python.Chart.load(CHART)


def value_sets() -> dict[str, dict[str, Any]]:
    """Name -> values: those in values/, and the chart's example with its program."""
    sets = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((HERE / "values").glob("*.yaml"))}
    example = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
    example["app"]["files"] = {"bars.py": (EXAMPLE / "bars.py").read_text()}
    return {**sets, "example": example}


def manifests(values: dict[str, Any], release: str = RELEASE) -> dict[str, str]:
    """Template -> text, as Helm renders it. Raises ``HelmRenderError`` where the chart refuses."""
    return chart().render(values, name=release, namespace=NAMESPACE)


def objects(values: dict[str, Any], release: str = RELEASE) -> list[dict[str, Any]]:
    """All objects of a release, ordered by template, hooks among them."""
    return copy.deepcopy(_objects(json.dumps(values), release))


@cache
def _objects(values: str, release: str) -> list[dict[str, Any]]:
    texts = manifests(json.loads(values), release)
    documents = [
        document
        for name in sorted(texts)
        if name.endswith(".yaml")
        for document in yaml.load_all(texts[name], yaml.CSafeLoader)
        if document is not None
    ]
    assert all({"apiVersion", "kind", "metadata"} <= document.keys() for document in documents)
    return documents


def golden(name: str) -> Path:
    """The file that holds what the value set ``name`` becomes."""
    return HERE / "golden" / f"{name}.yaml"


def golden_text(name: str, values: dict[str, Any]) -> str:
    """A release as it stands in a golden file: notes as comments, then the objects, without the layout of templates.

    Of all sets but ``minimal`` only what differs from minimal's is written out; the rest is named.
    """
    notes = manifests(values)["market-data-pipeline/templates/NOTES.txt"].rstrip().splitlines()
    written, head = objects(values), [*notes, ""]
    if name != "minimal":
        least = {_title(one): one for one in objects(value_sets()["minimal"])}
        mine = {_title(one) for one in written}
        same = [_title(one) for one in written if least.get(_title(one)) == one]
        gone = sorted(least.keys() - mine)
        head += [f"as in minimal: {', '.join(same) or 'none'}", f"not there: {', '.join(gone) or 'none'}"]
        written = [one for one in written if _title(one) not in same]
    comments = "".join(f"# {line}".rstrip() + "\n" for line in head)
    return comments + yaml.safe_dump_all(
        written, sort_keys=False, width=120, explicit_start=True, default_flow_style=None
    )


def _title(one: dict[str, Any]) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def values_table() -> str:
    """The values of the chart as a table for its README: name, default, meaning."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | meaning |", "|---|---|---|", *_rows(schema, defaults, "")]
    return "\n".join(lines)


def _rows(schema: dict[str, Any], defaults: Any, path: str) -> list[str]:
    rows = []
    for name, entry in schema["properties"].items():
        full = f"{path}{name}"
        if "properties" in entry:
            rows += _rows(entry, defaults[name], f"{full}.")
        elif name in defaults:
            shown = json.dumps(defaults[name]) if defaults[name] != "" else ""
            text = entry["description"].replace("|", "\\|")
            rows.append(f"| `{full}` | {f'`{shown}`' if shown else ''} | {text} |")
    return rows


def readme_with_table() -> str:
    """The chart's README with the table as it must be."""
    text = (CHART / "README.md").read_text()
    before, after = text.split(TABLE_BEGIN)[0], text.split(TABLE_END)[1]
    return f"{before}{TABLE_BEGIN}\n\n{values_table()}\n\n{TABLE_END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="write golden files and the README's table")
    parser.parse_args()
    for old in (HERE / "golden").glob("*.yaml"):
        old.unlink()
    for name, values in value_sets().items():
        golden(name).write_text(golden_text(name, values))
    (CHART / "README.md").write_text(readme_with_table())


if __name__ == "__main__":
    main()
