"""The shipped Prometheus rules and configuration, checked by promtool."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.alerting import PROMETHEUS, RULES, load
from tests.support.paths import REPOSITORY
from tests.support.programs import run_program
from tools import grafana_rules
from tools.prometheus_rule import groups

CASES = sorted((REPOSITORY / "tests/rules").glob("*.yml"))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_rules_pass_their_test_cases(file: Path) -> None:
    tested = run_program("promtool", "test", "rules", file.name, directory=file.parent)
    assert tested.returncode == 0, tested.stdout


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_queries_of_grafana_fire_in_the_same_cases(file: Path, tmp_path: Path) -> None:
    """Without texts, which Grafana cannot fill in, and with the severity from the query."""
    document = load(file)
    for test in document["tests"]:
        # Where Alertmanager would inhibit an alert, Grafana's query does not return it.
        is_incident = any("incident_info" in each["series"] for each in test["input_series"])
        left_out = {grafana_rules.INHIBITING, *(grafana_rules.INHIBITED if is_incident else ())}
        test["alert_rule_test"] = [
            {**check, "exp_alerts": [{"exp_labels": each["exp_labels"]} for each in check["exp_alerts"]]}
            for check in test.get("alert_rule_test", ())
            if check["alertname"] not in left_out
        ]
        test.pop("promql_expr_test", None)
    assert_pass(document, tmp_path)


def test_queries_of_grafana_leave_out_what_belongs_to_an_incident(tmp_path: Path) -> None:
    """Instead of the inhibition of Alertmanager. Overrides give an endpoint its severity."""
    job = 'job="tempo-anomaly-exporter", instance="a:9817"'
    alone, member = (f'{job}, service_name="shop", span_name="{name}"' for name in ("alone", "member"))
    series = {
        f'tempo_anomaly_anomalous{{{alone}, kind="shift"}}': "1x60",
        f'tempo_anomaly_anomalous{{{member}, kind="shift"}}': "1x60",
        f'tempo_anomaly_incident_info{{{member}, incident="i", role="cause"}}': "_x40 1x20",
        # A change of the overrides: for some minutes there are both.
        f'tempo_anomaly_alert_severity{{{alone}, severity="warning"}}': "1x12 stale",
        f'tempo_anomaly_alert_severity{{{alone}, severity="info"}}': "_x12 1x60",
    }

    def fired(at: str, **severities: str) -> dict[str, Any]:
        labels = {"job": "tempo-anomaly-exporter", "service_name": "shop"}
        return {
            "alertname": "TempoAnomalyLatencyShift",
            "eval_time": at,
            "exp_alerts": [
                {"exp_labels": {**labels, "span_name": name, "severity": severity}}
                for name, severity in severities.items()
            ],
        }

    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            fired("2m", alone="warning", member="warning"),
            # The alert about the member keeps firing for five minutes.
            fired("14m55s", alone="info", member="warning"),
            fired("15m15s", alone="info"),
        ],
    }
    assert_pass({"evaluation_interval": "5s", "tests": [test]}, tmp_path)


def test_queries_of_grafana_notify_once_about_an_endpoint_with_several_kinds(tmp_path: Path) -> None:
    """Latency before failures, failures before traffic; what overrides make critical notifies all the same."""
    job = 'job="tempo-anomaly-exporter", instance="a:9817"'
    slow, failing, important = (f'{job}, service_name="shop", span_name="{name}"' for name in ("a", "b", "c"))
    series = {
        **{f'tempo_anomaly_anomalous{{{slow}, kind="{kind}"}}': "1x60" for kind in ("shift", "errors", "traffic")},
        **{f'tempo_anomaly_anomalous{{{failing}, kind="{kind}"}}': "1x60" for kind in ("errors", "traffic")},
        **{f'tempo_anomaly_anomalous{{{important}, kind="{kind}"}}': "1x60" for kind in ("shift", "errors")},
        f'tempo_anomaly_alert_severity{{{important}, severity="critical"}}': "1x60",
    }

    def fired(alert: str, **severities: str) -> dict[str, Any]:
        labels = {"job": "tempo-anomaly-exporter", "service_name": "shop"}
        return {
            "alertname": alert,
            "eval_time": "10m",
            "exp_alerts": [
                {"exp_labels": {**labels, "span_name": name, "severity": severity}}
                for name, severity in severities.items()
            ],
        }

    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            fired("TempoAnomalyLatencyShift", a="warning", c="critical"),
            fired("TempoAnomalyErrors", b="warning", c="critical"),
            fired("TempoAnomalyTrafficDrop"),
        ],
    }
    assert_pass({"evaluation_interval": "15s", "tests": [test]}, tmp_path)


def assert_pass(document: dict[str, Any], directory: Path) -> None:
    """Run the cases of a document on the queries of Grafana."""
    queries = grafana_rules.expressions()
    checked = {check["alertname"] for test in document["tests"] for check in test["alert_rule_test"]}
    alerts = [
        {
            **{name: rule[name] for name in ("alert", "for", "keep_firing_for") if name in rule},
            "expr": queries[rule["alert"]],
            "labels": grafana_rules.labels(rule),
        }
        for group in groups()
        for rule in group["rules"]
        if rule.get("alert") in checked
    ]
    (directory / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "grafana", "rules": alerts}]}), "utf-8")
    cases = {**document, "rule_files": ["rules.yml"], "group_eval_order": ["grafana"]}
    (directory / "cases.yml").write_text(yaml.safe_dump(cases), "utf-8")
    tested = run_program("promtool", "test", "rules", "cases.yml", directory=directory)
    assert tested.returncode == 0, tested.stdout


def test_rules_have_no_lint_errors() -> None:
    checked = run_program("promtool", "check", "rules", "--lint-fatal", *map(str, RULES))
    assert checked.returncode == 0, checked.stdout


def test_configuration_is_valid_and_loads_all_rules() -> None:
    checked = run_program("promtool", "check", "config", "--lint-fatal", str(PROMETHEUS))
    assert checked.returncode == 0, checked.stdout
    assert f"{len(RULES)} rule files found" in checked.stdout
