"""``python -m tools.grafana_rules``: write the alert rules as Grafana-managed rules, for provisioning.

They are made of ``configs/prometheus/rules``, and differ where Grafana Alerting does:

- Grafana evaluates them, so the queries of the recording rules become part of the expressions.
- A rule fires for each series that its query returns, as in Prometheus: the two expressions after the query are those
  with which Grafana converts rules of Prometheus (``pkg/services/ngalert/prom/query.go`` of
  https://github.com/grafana/grafana).
- Texts cannot query (``pkg/services/ngalert/state/template/template.go``), and a further query without a result would
  leave the rule without one (``pkg/services/ngalert/eval/eval.go``). So a text names the endpoint, links to the
  figures, and the severity of overrides comes from the query itself.
- Grafana's Alertmanager has no inhibition, so the query leaves out endpoints and services that belong to an incident,
  and endpoints about which another kind of alert is more important.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tools.prometheus_rule import groups, yaml_text

TARGET: Final = Path(__file__).parents[1] / "grafana/provisioning/alerting/tempo-anomaly.yaml"
DATASOURCE: Final = "prometheus"
INHIBITING: Final = "TempoAnomalyIncidentEndpoint"
"""Fires for what belongs to an incident; only inhibits other alerts."""
INHIBITED: Final = {
    "TempoAnomalyLatencyShift": (INHIBITING,),
    "TempoAnomalyLatencyShiftSevere": (INHIBITING,),
    "TempoAnomalyServiceLatencyShift": (INHIBITING,),
    "TempoAnomalyServiceLatencyShiftSevere": (INHIBITING,),
    "TempoAnomalyCommonLatencyShift": (INHIBITING,),
    "TempoAnomalyErrors": (INHIBITING, "TempoAnomalyLatencyShift"),
    "TempoAnomalyTrafficDrop": (INHIBITING, "TempoAnomalyLatencyShift", "TempoAnomalyErrors"),
}
"""Alerts that others inhibit in Alertmanager, and these."""
UNLESS_CRITICAL: Final = ("TempoAnomalyErrors", "TempoAnomalyTrafficDrop")
"""They notify all the same where overrides make them critical."""

_HEAD: Final = """\
# Made of configs/prometheus/rules by `make kubernetes`; change those and not this. Use one of both: otherwise each
# alert notifies twice. Needs the data source prometheus of provisioning/datasources. docs/dashboards.md has more.
"""
_STEP: Final = "15s"
"""Resolution of ranges over what is a recorded series in Prometheus: the interval of its rules."""
_SEVERITY: Final = re.compile(r"\{\{ else \}\}(\w+)\{\{ end \}\}$")
_OVERRIDDEN: Final = 'last_over_time(tempo_anomaly_alert_severity{job="tempo-anomaly-exporter"}[5m])'
_CRITICAL: Final = "max without (instance, pod, container, node) ({})".format(
    _OVERRIDDEN.replace("}", ', severity="critical"}')
)

Rule = Mapping[str, Any]


def expressions() -> dict[str, str]:
    """Return the PromQL of each alert that Grafana evaluates, by its name."""
    records, alerts = _rules("record"), _rules("alert")
    found = {}
    for name, rule in alerts.items():
        if name == INHIBITING:
            continue
        expression = _inlined(rule["expr"], records)
        if name in INHIBITED:
            inhibiting = "\nor\n".join(f"({_inlined(alerts[each]['expr'], records)})" for each in INHIBITED[name])
            if name in UNLESS_CRITICAL:
                inhibiting = f"({inhibiting})\nunless ignoring (severity)\n{_CRITICAL}"
            expression = f"({expression})\nunless\n({inhibiting})"
        default, is_overridden = severity(rule)
        found[name] = _with_severity(expression, default) if is_overridden else expression
    return found


def severity(rule: Rule) -> tuple[str, bool]:
    """Return the severity of an alert without overrides, and whether overrides can change it."""
    text = rule["labels"]["severity"]
    default = _SEVERITY.search(text)
    return (text, False) if default is None else (default[1], True)


def labels(rule: Rule) -> dict[str, str]:
    """Return the labels that a rule adds to those of its query."""
    others = {name: value for name, value in rule["labels"].items() if name != "severity"}
    text, is_overridden = severity(rule)
    return others if is_overridden else {"severity": text, **others}


def rendered() -> str:
    """Return the provisioning file as YAML."""
    expression = expressions()
    document = {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group["name"],
                "folder": "Tempo anomalies",
                "interval": "30s",
                "rules": [_rule(rule, expression[rule["alert"]]) for rule in found],
            }
            for group in groups()
            if (found := [rule for rule in group["rules"] if rule.get("alert") in expression])
        ],
    }
    return _HEAD + yaml_text(document)


def _rules(kind: str) -> dict[str, Rule]:
    return {rule[kind]: rule for group in groups() for rule in group["rules"] if kind in rule}


def _rule(rule: Rule, expression: str) -> dict[str, Any]:
    annotations = {
        "summary": rule["annotations"]["summary"],
        "description": _description(rule),
        "runbook_url": rule["annotations"]["runbook_url"],
        **{
            name: _text(rule["annotations"][name])
            for name in ("dashboard_url", "traces_url")
            if name in rule["annotations"]
        },
    }
    return {
        # At most 40 characters.
        "uid": rule["alert"].lower(),
        "title": rule["alert"],
        "condition": "fires",
        "data": [
            {
                "refId": "query",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": DATASOURCE,
                "model": {
                    "refId": "query",
                    "datasource": {"type": "prometheus", "uid": DATASOURCE},
                    "expr": expression,
                    "instant": True,
                    "range": False,
                },
            },
            _expression("returned", type="math", expression="is_number($query) || is_nan($query) || is_inf($query)"),
            _expression(
                "fires",
                type="threshold",
                expression="returned",
                conditions=[{"evaluator": {"type": "gt", "params": [0]}}],
            ),
        ],
        # Nothing returned means that nothing is wrong. What cannot be queried has an alert of its own.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "keepFiringFor": rule.get("keep_firing_for", "0s"),
        # Resolve as soon as the series is gone, as Prometheus does.
        "missing_series_evals_to_resolve": 1,
        "labels": labels(rule),
        "annotations": annotations,
    }


def _expression(name: str, **model: Any) -> dict[str, Any]:
    return {
        "refId": name,
        "datasourceUid": "__expr__",
        "model": {"refId": name, "datasource": {"type": "__expr__", "uid": "__expr__"}, **model},
    }


def _description(rule: Rule) -> str:
    """Return a text that names what the alert is about, by the labels that the text of Prometheus uses."""
    of_prometheus, names = rule["annotations"]["description"], []
    for label, said in (("span_name", "endpoint"), ("service_name", "service"), ("instance", "exporter")):
        if f"$labels.{label}" in of_prometheus:
            names.append(f'{said} {{{{ printf "%.200q" .Labels.{label} }}}}')
    about = f" It is about {', '.join(names)}." if names else ""
    return f"{rule['annotations']['summary']}{about}"


def _text(of_prometheus: str) -> str:
    """Return a link of Prometheus without queries, and without dollars, which provisioning would interpolate."""
    text = re.sub(r"^\{\{ \$matchers := .*?(?=/a/)", "", of_prometheus)
    before, query, _ = text.partition(" {{- with query")
    # The selection needs the time at which the flag began; without it, the app selects the slowest or failed requests.
    text = before + ("&from=now-90m&to=now" if query else "")
    return text.replace("|$^", "|\\\\x24^").replace("$labels", ".Labels")


def _inlined(expression: str, records: Mapping[str, Rule]) -> str:
    """Replace the names of recorded series by their queries."""

    def query(match: re.Match[str]) -> str:
        inner = f"({_inlined(records[match[1]]['expr'], records).strip()})"
        return f"{inner}[{match[2]}:{_STEP}]" if match[2] else inner

    names = "|".join(map(re.escape, sorted(records, key=len, reverse=True)))
    return re.sub(rf"({names})(?:\[(\w+)\])?", query, expression).strip()


def _with_severity(expression: str, default: str) -> str:
    """Give each series that a query returns the severity of its overrides, otherwise the default."""
    # One of several, which replicas or a change of the overrides leave for some minutes: a match must be unique.
    overridden = (
        "max without (instance, pod, container, node) (topk without (severity, instance, pod, container, node) (\n"
        f"  1, {_OVERRIDDEN}\n))"
    )
    return (
        f"(\n{expression}\n)\n* ignoring (severity) group_left (severity)\n{overridden}\nor\n"
        f"label_replace(\n  (\n{expression}\n)\n  unless ignoring (severity)\n  {overridden},\n"
        f'  "severity", "{default}", "", ""\n)'
    )


def main() -> None:
    """Write the file."""
    TARGET.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main()
