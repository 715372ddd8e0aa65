"""Alerts and dashboard: they name metrics that exist, and promtool plays each alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from helm.render import CHART, HERE, objects, value_sets
from market_data_pipeline.metrics import CoordinatorMetrics, WorkerMetrics

SETS = value_sets()
ALERTS = HERE / "rules" / "alerts.yaml"
DOCS = CHART.parents[1] / "docs" / "operations.md"
OF_TARGET = {"namespace", "pod", "mdp_job", "le"}
"""Labels that scraping gives, and a histogram's own."""
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")


def rule_groups(name: str) -> dict[str, Any]:
    (rule,) = (one for one in objects(SETS[name]) if one["kind"] == "PrometheusRule")
    return rule["spec"]


def alerts(name: str) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in rule_groups(name)["groups"] for rule in group["rules"]}


def series(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Series name -> its labels, as they are scraped."""
    found: dict[str, set[str]] = {}
    for collector in registry._collector_to_names:
        assert isinstance(collector, MetricWrapperBase)
        for name in registry._collector_to_names[collector]:
            found.setdefault(name, set()).update(collector._labelnames)
    return found


def existing() -> dict[str, set[str]]:
    """Every series of worker and coordinator."""
    found = series(WorkerMetrics().registry)
    for name, labels in series(CoordinatorMetrics().registry).items():
        found.setdefault(name, set()).update(labels)
    return found


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((CHART / "dashboards" / "market-data-pipeline.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def expressions() -> list[str]:
    rules = [rule["expr"] for name in ("alerts", "stage-from-zero") for rule in alerts(name).values()]
    return [*rules, *dashboard_expressions()]


def test_metrics_that_are_named_exist() -> None:
    named = {metric for text in expressions() for metric in re.findall(r"\bmdp_(?!job\b)\w+", text)}
    assert len(named) > 20
    assert named <= existing().keys()


def test_labels_that_are_asked_for_are_there() -> None:
    known = existing()
    for text in expressions():
        labels = set().union(*(known[metric] for metric in re.findall(r"\bmdp_(?!job\b)\w+", text))) | OF_TARGET
        for listed in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", text):
            assert {label.strip() for label in listed.split(",")} <= labels, text


def test_every_series_is_selected_by_namespace_and_job() -> None:
    for text in expressions():
        for metric, selector in re.findall(r"\b(mdp_(?!job\b)\w+)(\{[^}]*\})?", text):
            assert "namespace=" in selector, f"{metric} in {text}"
            assert "mdp_job=" in selector, f"{metric} in {text}"


def test_monitors_give_the_label_that_is_selected_by() -> None:
    for one in objects(SETS["monitored"]):
        if one["kind"] in ("ServiceMonitor", "PodMonitor"):
            (endpoint,) = one["spec"].get("endpoints") or one["spec"]["podMetricsEndpoints"]
            assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
            (relabeling,) = endpoint["relabelings"]
            assert relabeling == {"action": "replace", "targetLabel": "mdp_job", "replacement": "bars"}


def test_every_alert_says_what_and_where_to_read_on() -> None:
    for rule in alerts("alerts").values():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert re.search(rf"^## {anchor}$", DOCS.read_text(), re.M | re.I)


def test_the_docs_say_what_to_do_on_each_alert() -> None:
    text = DOCS.read_text()
    section = text[text.index("## Alerts") :].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(alerts("alerts"))


def test_alerts_can_be_left_out_and_changed() -> None:
    changed = alerts("monitored")
    assert alerts("alerts").keys() - changed.keys() == {"MdpWatermarkLag"}
    assert (changed["MdpPaused"]["for"], changed["MdpPaused"]["labels"]["severity"]) == ("1h", "info")
    assert changed["MdpPaused"]["expr"].endswith("> 2")
    assert changed["MdpPaused"]["annotations"]["runbook_url"].startswith("https://wiki.example.com/")


def test_a_job_without_workers_may_be_meant() -> None:
    assert "mdp_workers" not in alerts("alerts")["MdpPartitionWithoutOwner"]["expr"]
    assert "mdp_workers" in alerts("stage-from-zero")["MdpPartitionWithoutOwner"]["expr"]


def test_panels_have_places_of_their_own() -> None:
    dashboard = json.loads((CHART / "dashboards" / "market-data-pipeline.json").read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_dashboard_comes_as_it_is() -> None:
    (found,) = (one for one in objects(SETS["monitored"]) if one["metadata"]["name"].endswith("-dashboard"))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    text = found["data"]["market-data-pipeline.json"]
    assert json.loads(text) == json.loads((CHART / "dashboards" / "market-data-pipeline.json").read_text())


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
@pytest.mark.parametrize("name", ["alerts", "monitored", "stage-from-zero"])
def test_promtool_reads_the_rules(name: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(rule_groups(name)))
    assert f"SUCCESS: {len(alerts(name))} rules found" in promtool("check", "rules", rules)


@needs_promtool
def test_promtool_reads_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    records = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(dashboard_expressions())]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    assert f"SUCCESS: {len(records)} rules found" in promtool("check", "rules", rules)


@needs_promtool
def test_each_alert_fires_and_is_silent_when_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_groups("alerts")))
    cases = tmp_path / "cases.yaml"
    cases.write_text(ALERTS.read_text().replace("[RULES]", "[rules.yaml]"))
    assert "SUCCESS" in promtool("test", "rules", cases)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    played: dict[bool, set[str]] = {True: set(), False: set()}
    for case in yaml.safe_load(ALERTS.read_text())["tests"]:
        for asked in case["alert_rule_test"]:
            played[bool(asked["exp_alerts"])].add(asked["alertname"])
    assert played == {True: set(alerts("alerts")), False: set(alerts("alerts"))}
