"""The files for Prometheus and Grafana: they are valid, alerts fire when they should, and all metrics exist."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
METRIC = re.compile(r"\borderflow_\w+")
ENDINGS = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
OPERATIONS, NIGHT = ((ROOT / f"docs/{name}.md").read_text() for name in ("operations", "3am"))


def promtool(*words):
    """Runs Prometheus' own tool; returns its exit code and output."""
    tool = shutil.which("promtool")
    if tool is None and not os.environ.get("CI"):
        pytest.skip("promtool is missing; on Debian: apt-get install prometheus")
    done = subprocess.run([tool, *words], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_accepts_the_files(words):
    code, output = promtool(*words)
    assert code == 0, output


def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path):
    """Each as a recording rule, with values for Grafana's variables."""
    queries = [query.replace("$__rate_interval", "1m").replace("$job", "orderflow") for query in QUERIES]
    rules = [{"record": f"query:number_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    code, output = promtool("check", "rules", str(tmp_path / "rules.yml"))
    assert code == 0, output


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not():
    names = {rule["alert"] for rule in RULES}
    cases = [case for test in TESTS for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


@pytest.fixture
def scraped(client):
    """The names of all samples that a scrape may have, and their families."""
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    return {f"{family.name}{ending}": family.name for family in families for ending in ENDINGS[family.type]}


def test_every_metric_of_dashboard_and_alerts_is_in_a_real_scrape(scraped):
    watched = {name for query in [*QUERIES, *(rule["expr"] for rule in RULES)] for name in METRIC.findall(query)}
    assert watched
    assert watched <= scraped.keys()


def test_every_metric_is_on_the_dashboard_and_explained(scraped):
    shown = {scraped[name] for query in QUERIES for name in METRIC.findall(query)}
    assert shown == set(scraped.values())
    explained = {scraped[name] for name in METRIC.findall(OPERATIONS) if name in scraped}
    assert explained == set(scraped.values())


def test_operations_names_no_metric_that_is_not_there(scraped):
    assert set(METRIC.findall(OPERATIONS)) <= scraped.keys()


def test_the_dashboard_has_a_row_for_each_concern_and_no_panels_on_top_of_each_other():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Order processing", "Payments", "Database", "Capacity", "Message broker", "Webhooks"]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] for panel in PANELS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_summary_and_a_runbook(rule):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "https://docs.example/orderflow/3am.md"
    assert anchor == rule["alert"].lower()
    assert f"### {rule['alert']}\n" in NIGHT.partition("\n## Alerts\n")[2]
    assert f"[Runbook](operations.md#{anchor})" in NIGHT
    assert f"### {rule['alert']}\n" in OPERATIONS


def test_the_night_knows_no_alert_that_is_not_there():
    named = re.findall(r"^### (\w+)$", NIGHT.partition("\n## Alerts\n")[2], re.MULTILINE)
    assert sorted(named) == sorted(rule["alert"] for rule in RULES)
