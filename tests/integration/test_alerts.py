"""The agent's alert rules by promtool, its dashboard by promtool and by Grafana's own models."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts import METRICS, SCRAPED
from tests.cluster.promtool import promtool
from tests.environments import own_environment
from tests.support import ROOT

FILES = ROOT / "roles/node_capacity/files"
ALERTS = FILES / "alerts.yaml"
RULE_TESTS = ROOT / "tests/alerts/node_capacity.yaml"
GRAFANA_MODELS = "grafana-foundation-sdk==0.0.21"
# The kinds of panel that are part of Grafana and that its models describe.
PANELS = {"bargauge", "row", "stat", "state-timeline", "table", "timeseries"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# Values for Grafana's variables in expressions.
VARIABLES = {"$__rate_interval": "2m", "$node": "worker-0|worker-1"}

# The number of columns in Grafana's grid.
COLUMNS = 24


@pytest.fixture(scope="session")
def check() -> Callable[..., str]:
    """Run promtool and return its output."""
    program = promtool()

    def run(*arguments: str | Path) -> str:
        completed = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
        assert completed.returncode == 0, f"promtool {arguments} failed:\n{completed.stdout}{completed.stderr}"
        return completed.stdout

    return run


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((FILES / "dashboard.json").read_text())


def targets(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield from panel.get("targets", [])


def unknown(expression: str) -> set[str]:
    """The metrics and labels in `expression` that do not exist."""
    metrics = set(re.findall(r"\bpeerpods_\w+", expression))
    labels = {"", *SCRAPED}.union(*(METRICS.get(metric, ()) for metric in metrics))
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    used = {label.strip() for group in grouped for label in group.split(",")}.union(matched)
    return (metrics - METRICS.keys()) | (used - labels)


def test_the_rules_are_valid_without_duplicates(check: Callable[..., str]):
    check("check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def test_the_rule_tests_pass(check: Callable[..., str]):
    check("test", "rules", RULE_TESTS)


def test_each_alert_fires_in_a_rule_test(rules: list[dict[str, Any]]):
    fired = set()
    for case in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for expected in case.get("promql_expr_test", []):
            for sample in expected["exp_samples"]:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
                fired.add((labels["alertname"], labels["severity"]))
        for expected in case.get("alert_rule_test", []):
            for alert in expected["exp_alerts"]:
                fired.add((expected["alertname"], alert["exp_labels"]["severity"]))
    assert fired == {(rule["alert"], rule["labels"]["severity"]) for rule in rules}


def test_each_alert_has_a_severity_and_steps(rules: list[dict[str, Any]]):
    for rule in rules:
        name, annotations = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert annotations.keys() == {"summary", "description"}, name
        assert re.search(r"^ +oc ", annotations["description"], re.MULTILINE), name
        # A label that the expression has dropped is empty in the text.
        kept_labels = {
            label.strip() for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in group.split(",")
        }
        assert set(re.findall(r"\$labels\.(\w+)", annotations["description"])) <= kept_labels, name


def test_the_alerts_use_metrics_of_the_agent(rules: list[dict[str, Any]]):
    assert {rule["alert"]: names for rule in rules if (names := unknown(rule["expr"]))} == {}


def test_the_dashboards_expressions_are_valid(check: Callable[..., str], dashboard: dict[str, Any], tmp_path: Path):
    expressions = [target["expr"] for target in targets(dashboard)]
    for variable, value in VARIABLES.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    recorded = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(expressions)} rules found" in check("check", "rules", file)
    assert not [expression for expression in expressions if "$" in expression]


def test_the_dashboard_uses_metrics_of_the_agent(dashboard: dict[str, Any]):
    for target in targets(dashboard):
        assert not unknown(target["expr"]), target
        # The expression must keep the labels of the legend.
        for label in re.findall(r"{{(\w+)}}", target.get("legendFormat", "")):
            assert re.search(rf"\bby \([^)]*\b{label}\b", target["expr"]), target
    (query,) = [v["query"]["query"] for v in dashboard["templating"]["list"] if v["name"] == "node"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    assert label in METRICS[metric]


def test_the_dashboard_shows_every_metric(dashboard: dict[str, Any]):
    expressions = " ".join(target["expr"] for target in targets(dashboard))
    assert set(re.findall(r"\bpeerpods_\w+", expressions)) == METRICS.keys()


def test_the_dashboard_has_only_fields_of_grafanas_models(dashboard: dict[str, Any]):
    completed = subprocess.run(
        [own_environment(GRAFANA_MODELS) / "python", ROOT / "tests/alerts/grafana_keys.py"],
        input=json.dumps(dashboard),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert completed.stdout.split() == []
    assert {panel["type"] for panel in dashboard["panels"]} <= PANELS


def test_the_dashboard_can_be_imported_anywhere(dashboard: dict[str, Any]):
    """It has a variable for the data source and no `id`, which belongs to one Grafana."""
    assert "id" not in dashboard
    assert dashboard["schemaVersion"] >= 42
    datasource, *other_variables = dashboard["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for item in [*other_variables, *panels, *targets(dashboard)]:
        assert item["datasource"] == DATASOURCE, item


def test_the_panels_do_not_overlap(dashboard: dict[str, Any]):
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    for panel in panels:
        position = panel["gridPos"]
        assert position["x"] >= 0, panel["title"]
        assert position["x"] + position["w"] <= COLUMNS, panel["title"]
        refs = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(refs)) == len(refs), panel["title"]
    for first, second in combinations(panels, 2):
        a, b = first["gridPos"], second["gridPos"]
        is_disjoint = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert is_disjoint, (first["title"], second["title"])
