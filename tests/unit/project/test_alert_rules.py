import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import parse_qs, urldefrag, urlsplit

import pytest

from exporter.detection.flag import FlagKind
from exporter.evaluation.snapshot import KindStatus, SeriesStatus
from exporter.explain.drilldown import Drilldown
from exporter.model.span import SeriesKey
from exporter.runtime.telemetry import LOOPS, SKIP_REASONS
from tests.support.alerting import ALERTMANAGER, PROMETHEUS, load, rules
from tests.support.paths import REPOSITORY
from tests.support.programs import run_program
from tests.support.samples import baseline
from tests.support.whole_page import WholePage

CASES = sorted((REPOSITORY / "tests/rules").glob("*.yml"))
ALERTS = rules("alert")
RECORDED = rules("record")
RUNBOOK = "https://github.com/tempo-anomaly-exporter/tempo-anomaly-exporter/blob/main/docs/runbook.md"
JOB = "tempo-anomaly-exporter"
ABOUT_FLAGS = {
    *("TempoAnomalyLatencyShift", "TempoAnomalyLatencyShiftSevere", "TempoAnomalyErrors", "TempoAnomalyTrafficDrop"),
}
"""The alerts about one endpoint whose flag fires now."""
NOT_OURS = {"up", "process_start_time_seconds"}


def queries(alert: Mapping[str, Any]) -> str:
    """Return all PromQL of a rule: its expression and the queries in its texts."""
    return "\n".join([alert["expr"], *alert.get("annotations", {}).values()])


def names_in(text: str) -> set[str]:
    """Return the time series that a text names."""
    # Not after a letter, colon, slash or dot; the job is excluded by its hyphens.
    return set(re.findall(r"(?<![\w:/.-])(?:\w+:)?tempo_anomaly_\w+(?::\w+)?|\bup\b(?=\{)|\bprocess_\w+", text))


class TestPrometheusConfiguration:
    def test_scrapes_the_job_that_the_rules_select(self) -> None:
        jobs = {job["job_name"] for job in load(PROMETHEUS)["scrape_configs"]}
        asked = {
            job
            for rule in chain(ALERTS.values(), RECORDED.values())
            for job in re.findall(r'job="([^"]*)"', rule["expr"])
        }
        assert jobs == asked == {JOB}


@pytest.mark.parametrize("name", ALERTS)
class TestEveryAlert:
    def test_has_severity_and_the_four_annotations(self, name: str) -> None:
        alert = ALERTS[name]
        assert re.fullmatch(r"TempoAnomaly([A-Z][a-z]+)+", name)
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        about_flag = {"traces_url"} if name in ABOUT_FLAGS else set()
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"} | about_flag
        assert "{{" not in alert["annotations"]["summary"]
        assert alert["annotations"]["summary"].endswith(".")

    def test_has_a_section_in_the_runbook(self, name: str) -> None:
        page, anchor = urldefrag(ALERTS[name]["annotations"]["runbook_url"])
        assert page == RUNBOOK
        assert anchor == name.lower()
        headings = re.findall(r"^## (\w+)$", (REPOSITORY / "docs/runbook.md").read_text("utf-8"), re.MULTILINE)
        assert headings.count(name) == 1

    def test_links_a_dashboard_with_escaped_values(self, name: str) -> None:
        address = ALERTS[name]["annotations"]["dashboard_url"]
        assert re.match(r"/d/tempo-anomaly-(overview|endpoint|exporter)(\?|$)", address)
        # Values in addresses are escaped.
        assert all(part.endswith("| urlquery ") for part in re.findall(r"\{\{(.*?)\}\}", address))

    def test_links_traces_with_escaped_values(self, name: str) -> None:
        address = ALERTS[name]["annotations"].get("traces_url", "")
        for part in re.findall(r"\{\{(.*?)\}\}", re.sub(r"\{\{-? (range|if|else|with) .*?\}\}", "", address)):
            assert "_name" not in part or part.endswith("| urlquery "), part

    def test_quotes_names_of_services_and_endpoints_in_its_text(self, name: str) -> None:
        for part in re.findall(r"\{\{(.*?)\}\}", ALERTS[name]["annotations"]["description"]):
            if re.search(r"labels?\.(service|span)_name", part, re.IGNORECASE):
                assert re.search(r'printf "[^"]*%(\.200)?q"', part), part

    def test_has_cases_in_which_it_fires_stays_quiet_and_resolves(self, name: str) -> None:
        fires = resolves = quiet = False
        for test in (test for file in CASES for test in load(file)["tests"]):
            checks = [check for check in test.get("alert_rule_test", ()) if check["alertname"] == name]
            fired = [bool(check["exp_alerts"]) for check in checks]
            if test["name"].startswith(f"{name} fires and resolves"):
                fires = True in fired
                resolves = not fired[-1]
                # Nor does it fire early.
                assert not fired[0]
            elif test["name"].startswith(f"{name} stays quiet just below"):
                quiet = len(fired) >= 2 and True not in fired
        assert (fires, quiet, resolves) == (True, True, True)


class TestTraces:
    """The links into Traces Drilldown, as the cases in ``tests/rules`` have them."""

    KEY = SeriesKey("checkout", "POST /checkout")

    def urls(self, file: str, alert: str) -> list[str]:
        """Return the links of the cases of an alert."""
        return [
            fired["exp_annotations"]["traces_url"]
            for test in load(REPOSITORY / "tests/rules" / file)["tests"]
            for check in test.get("alert_rule_test", ())
            if check["alertname"] == alert
            for fired in check["exp_alerts"]
        ]

    @pytest.mark.parametrize(
        ("file", "alert", "status", "at"),
        [
            (
                "latency.yml",
                "TempoAnomalyLatencyShift",
                SeriesStatus(KEY, baseline(p95=0.42), shift=True, since=75.0),
                420.0,
            ),
            (
                "errors.yml",
                "TempoAnomalyErrors",
                SeriesStatus(KEY, kinds=(KindStatus(FlagKind.ERRORS, True, 60.0),)),
                360.0,
            ),
            (
                "traffic.yml",
                "TempoAnomalyTrafficDrop",
                SeriesStatus(SeriesKey("checkout", "POST /pay"), kinds=(KindStatus(FlagKind.TRAFFIC, True, 700.0),)),
                900.0,
            ),
        ],
    )
    def test_lead_where_the_links_of_the_exporter_do(
        self, file: str, alert: str, status: SeriesStatus, at: float
    ) -> None:
        (expected,) = Drilldown("https://grafana").of_flags(status, at).values()
        shown = [f"https://grafana{url}" for url in self.urls(file, alert)]
        assert _parsed(expected) in [_parsed(url) for url in shown]


def _parsed(url: str) -> tuple[str, dict[str, Any]]:
    """Return the parts of a link, its selection as JSON."""
    parts = urlsplit(url)
    parameters: dict[str, Any] = parse_qs(parts.query)
    return f"{parts.netloc}{parts.path}", {
        name: json.loads(values[0]) if name == "selection" else values for name, values in parameters.items()
    }


class TestEveryQuery:
    def test_uses_published_or_recorded_series_only(self) -> None:
        published = set(WholePage.full().families())
        known = published | set(RECORDED) | NOT_OURS
        asked = {name: names_in(queries(rule)) for name, rule in chain(ALERTS.items(), RECORDED.items())}
        assert {name: names - known for name, names in asked.items() if names - known} == {}
        # names_in finds at least one name in each rule.
        assert all(asked.values())
        # Every recorded series is used.
        assert set(RECORDED) <= set(chain.from_iterable(names_in(queries(alert)) for alert in ALERTS.values()))

    def test_uses_existing_label_values_only(self) -> None:
        text = "\n".join(queries(rule) for rule in chain(ALERTS.values(), RECORDED.values())).replace("\\", "")
        known: dict[str, set[str]] = {
            "kind": {"shift", "outlier", "regression", "errors", "traffic"},
            "loop": set(LOOPS),
            "reason": set(SKIP_REASONS),
            "state": {"pending", "done", "empty", "partial", "failed", "expired"},
            "level": {"1", "2", "3", "4", "5"},
        }
        for label, values in known.items():
            asked = re.findall(rf'\b{label}=~?"([\w|]+)"', text)
            assert asked, label
            assert {value for pattern in asked for value in pattern.split("|")} <= values


def routed(**labels: str) -> str:
    """Return the receiver of an alert."""
    tested = run_program(
        "amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", *(f"{k}={v}" for k, v in labels.items())
    )
    assert tested.returncode == 0, tested.stdout
    return tested.stdout.splitlines()[-1]


def inhibitions() -> Iterator[tuple[set[str], set[str], list[str]]]:
    """Yield inhibiting alerts, inhibited alerts, and the labels that must be equal."""
    for rule in load(ALERTMANAGER)["inhibit_rules"]:
        yield matching(rule["source_matchers"]), matching(rule["target_matchers"]), rule["equal"]


def matching(matchers: list[str]) -> set[str]:
    """Return the alerts that some matchers select."""
    found = set(ALERTS)
    for matcher in matchers:
        parts = re.fullmatch(r'(\w+)(=~?)"(.*)"', matcher)
        assert parts is not None, matcher
        label, operator, value = parts.groups()
        pattern = re.compile(value if operator == "=~" else re.escape(value))
        labels = {name: {"alertname": name, **rule["labels"]} for name, rule in ALERTS.items()}
        found = {name for name in found if pattern.fullmatch(labels[name].get(label, ""))}
    return found


class TestAlertmanager:
    def test_the_configuration_is_clean(self) -> None:
        checked = run_program("amtool", "check-config", str(ALERTMANAGER))
        assert checked.returncode == 0, checked.stdout

    @pytest.mark.parametrize(
        ("name", "service", "receiver"),
        [
            ("TempoAnomalyLatencyShift", "search", "chat"),
            ("TempoAnomalyLatencyShiftSevere", "search", "pager"),
            ("TempoAnomalyServiceLatencyShift", "search", "chat"),
            ("TempoAnomalyServiceLatencyShiftSevere", "search", "pager"),
            ("TempoAnomalyCommonLatencyShift", "search", "chat"),
            ("TempoAnomalyLatencyShift", "checkout", "checkout-chat"),
            ("TempoAnomalyServiceLatencyShiftSevere", "payments", "checkout-pager"),
            ("TempoAnomalyTrafficDrop", "search", "chat"),
            ("TempoAnomalyTrafficDrop", "checkout", "checkout-chat"),
            *(
                (name, None, "exporter-owners")
                for name in ALERTS
                if not re.search("Latency|Incident|Errors|TrafficDrop", name)
            ),
            ("TempoAnomalyErrors", "search", "chat"),
            ("TempoAnomalyErrors", "checkout", "checkout-chat"),
            ("TempoAnomalyLatencyRegression", "checkout", "tickets"),
            ("TempoAnomalyIncident", None, "chat"),
            ("TempoAnomalyIncidentSevere", None, "pager"),
            ("TempoAnomalyIncidentEndpoint", "checkout", "none"),
        ],
    )
    def test_routes_by_severity_and_service(self, name: str, service: str | None, receiver: str) -> None:
        of_service = {} if service is None else {"service_name": service}
        assert routed(alertname=name, severity=ALERTS[name]["labels"]["severity"], job=JOB, **of_service) == receiver

    def test_other_alerts_go_to_the_default_receiver(self) -> None:
        assert routed(alertname="NodeDown", severity="critical") == "chat"

    def test_inhibitions_name_existing_alerts_and_none_inhibits_itself(self) -> None:
        for rule in load(ALERTMANAGER)["inhibit_rules"]:
            for matcher in chain(rule["source_matchers"], rule["target_matchers"]):
                assert matching([matcher]), matcher
        for sources, targets, _ in inhibitions():
            assert sources
            assert targets
            assert not sources & targets

    def test_a_warning_never_inhibits_a_critical_alert(self) -> None:
        for sources, targets, _ in inhibitions():
            if sources == {"TempoAnomalyIncidentEndpoint"}:
                # While an endpoint of an incident is severe, so is the incident: both have the same condition.
                assert "service_span:tempo_anomaly_shift_severe:max" in ALERTS["TempoAnomalyIncidentSevere"]["expr"]
                continue
            severities = [{ALERTS[name]["labels"]["severity"] for name in names} for names in (sources, targets)]
            assert severities[0] == {"critical"} or "critical" not in severities[1]

    def test_inhibitions_are_exactly_the_intended_ones(self) -> None:
        pairs = {(source, target) for sources, targets, _ in inhibitions() for source in sources for target in targets}
        single, severe = "TempoAnomalyLatencyShift", "TempoAnomalyLatencyShiftSevere"
        wide, wide_severe = "TempoAnomalyServiceLatencyShift", "TempoAnomalyServiceLatencyShiftSevere"
        common = "TempoAnomalyCommonLatencyShift"
        latency = {single, severe, wide, wide_severe, common}
        member, incident, incident_severe = (f"TempoAnomalyIncident{name}" for name in ("Endpoint", "", "Severe"))
        incidents = {member, incident, incident_severe}
        errors, traffic = "TempoAnomalyErrors", "TempoAnomalyTrafficDrop"
        kinds = {(source, target) for source in (single, severe, member) for target in (errors, traffic)}
        assert {pair for pair in pairs if {errors, traffic} & set(pair)} == kinds | {(errors, traffic)}
        assert {pair for pair in pairs if (latency | incidents) & set(pair)} == {
            *kinds, *((member, name) for name in latency), (incident_severe, incident),
            (severe, single), (wide, single), (wide_severe, single), (wide_severe, severe), (wide_severe, wide),
            (severe, wide), (wide_severe, single), (common, single), (wide, common), (wide_severe, common),
        }  # fmt: skip
        absent, unreachable = "TempoAnomalyExporterAbsent", "TempoAnomalyTempoUnreachable"
        others = {"TempoAnomalyLatencyRegression", errors, traffic}
        assert {target for source, target in pairs if source == absent} == (
            set(ALERTS) - latency - incidents - others - {absent}
        )
        assert {target for source, target in pairs if source == unreachable} == {
            "TempoAnomalyPollerStalled", "TempoAnomalyLiveEdgeBlind", "TempoAnomalyBackfillStuck",
            "TempoAnomalySearchesTruncated",
        }  # fmt: skip

    def test_an_alert_about_an_endpoint_inhibits_only_that_endpoint(self) -> None:
        for sources, targets, equal in inhibitions():
            if "TempoAnomalyLatencyShiftSevere" in sources:
                assert "span_name" in equal
            if any("LatencyShift" in name for name in sources | targets):
                assert {"service_name", "cluster"} <= set(equal)
