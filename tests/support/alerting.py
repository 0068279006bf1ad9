"""The shipped configuration of Prometheus and Alertmanager."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.support.monitoring import AlertmanagerServer, PrometheusServer, WebhookReceiver
from tests.support.paths import REPOSITORY

PROMETHEUS: Final = REPOSITORY / "configs/prometheus/prometheus.yml"
RULES: Final = sorted((REPOSITORY / "configs/prometheus/rules").glob("*.yml"))
ALERTMANAGER: Final = REPOSITORY / "configs/alertmanager/alertmanager.yml"

Document = dict[str, Any]

_SHORTENED: Final = {"30s": "1s", "3m": "1s", "5m": "2s", "10m": "4s", "11m": "4s"}


def load(file: Path) -> Document:
    """Load a YAML file whose top level is a mapping."""
    document = yaml.safe_load(file.read_text("utf-8"))
    assert isinstance(document, dict), file
    return document


def rules(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the shipped rules of a kind, ``alert`` or ``record``, by name; severities as without overrides."""
    found = [rule for file in RULES for group in load(file)["groups"] for rule in group["rules"] if kind in rule]
    for rule in found:
        if default := re.search(r"\{\{ else \}\}(\w+)\{\{ end \}\}$", rule.get("labels", {}).get("severity", "")):
            rule["labels"]["severity"] = default[1]
    named = {rule[kind]: rule for rule in found}
    assert len(named) == len(found), "duplicate rule name"
    return named


def write_shortened_rules(directory: Path) -> None:
    """Write the shipped rules for a Prometheus in this directory, with seconds for the minutes of the latency rules.

    The rules about the exporter and about regressions stay as they are; they do not fire within a test.
    """
    rules_directory = directory / "rules"
    rules_directory.mkdir(parents=True)
    for file in RULES:
        document = load(file)
        for group in document["groups"]:
            for rule in group["rules"]:
                if group["name"] == "tempo-anomaly.latency":
                    rule |= {
                        key: _SHORTENED.get(rule[key], rule[key]) for key in ("for", "keep_firing_for") if key in rule
                    }
        (rules_directory / file.name).write_text(yaml.safe_dump(document), "utf-8")


def prometheus_configuration(exporter: str, alertmanager: str) -> Document:
    """Return the shipped configuration with other addresses and an interval of one second."""
    document = load(PROMETHEUS)
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (scrape_config,), (alertmanagers,) = document["scrape_configs"], document["alerting"]["alertmanagers"]
    scrape_config["static_configs"] = [{"targets": [exporter]}]
    alertmanagers["static_configs"] = [{"targets": [alertmanager]}]
    return document


def alertmanager_configuration(webhook: str, *, group_wait: str) -> Document:
    """Return the shipped configuration with another receiver and short group intervals."""
    document = load(ALERTMANAGER)
    for receiver in document["receivers"]:
        for hook in receiver.get("webhook_configs", ()):
            hook["url"] = hook["url"].replace("http://127.0.0.1:9099", webhook)
    document["route"] |= {"group_wait": group_wait, "group_interval": "1s"}
    return document


class Alerting(NamedTuple):
    """The servers between an exporter and its notifications."""

    prometheus: PrometheusServer
    alertmanager: AlertmanagerServer
    webhook: WebhookReceiver


@contextmanager
def alerting_on(exporter_url: str, directory: Path) -> Iterator[Alerting]:
    """Run Prometheus and Alertmanager on an exporter, with the shipped configuration and short intervals."""
    with ExitStack() as stack:
        webhook = stack.enter_context(WebhookReceiver())
        alertmanager = stack.enter_context(
            AlertmanagerServer(directory / "alertmanager", alertmanager_configuration(webhook.url, group_wait="3s"))
        )
        write_shortened_rules(directory / "prometheus")
        scraping = prometheus_configuration(exporter_url.removeprefix("http://"), alertmanager.address)
        prometheus = stack.enter_context(PrometheusServer(directory / "prometheus", scraping))
        yield Alerting(prometheus, alertmanager, webhook)
