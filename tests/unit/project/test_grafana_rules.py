"""The alert rules for Grafana: made of those of Prometheus, in the form in which Grafana provisions them.

That their queries fire in the same cases is tested in ``tests/e2e/test_alert_rules.py``.
"""

import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import alerting, expr, prometheus

from tests.support.alerting import ALERTMANAGER, load, rules
from tests.support.paths import REPOSITORY
from tools import grafana_rules

ALERTS = rules("alert")
FILE = load(grafana_rules.TARGET)
RULES: dict[str, dict[str, Any]] = {rule["title"]: rule for group in FILE["groups"] for rule in group["rules"]}
MODELS: dict[str, Any] = {"query": prometheus.Dataquery, "returned": expr.TypeMath, "fires": expr.TypeThreshold}


def test_the_file_is_made_of_the_rules_of_prometheus() -> None:
    assert grafana_rules.TARGET.read_text("utf-8") == grafana_rules.rendered(), "run: make kubernetes"


def test_every_alert_is_there_but_the_one_that_only_inhibits() -> None:
    assert RULES.keys() == ALERTS.keys() - {grafana_rules.INHIBITING}


def test_what_inhibits_in_alertmanager_is_part_of_the_queries() -> None:
    found: dict[str, set[str]] = {name: set() for name in grafana_rules.INHIBITED}
    for rule in load(ALERTMANAGER)["inhibit_rules"]:
        sources, targets = (
            {name for name in ALERTS if re.fullmatch(re.findall(r'alertname=~?"(.*)"', str(rule[of][0]))[0], name)}
            for of in ("source_matchers", "target_matchers")
        )
        # Of a severe shift the other alert fires as well, and that one is inhibited.
        for target in targets & found.keys():
            found[target] |= sources & {each for of in grafana_rules.INHIBITED.values() for each in of}
    of_latency = {name for name in found if "LatencyShift" in name}
    assert all(found[name] >= set(grafana_rules.INHIBITED[name]) for name in found)
    assert {name: set(grafana_rules.INHIBITED[name]) for name in found.keys() - of_latency} == {
        name: sources for name, sources in found.items() if name not in of_latency
    }


def test_groups_have_a_folder_and_an_interval() -> None:
    (provider,) = yaml.safe_load((REPOSITORY / "grafana/provisioning/dashboards/tempo-anomaly.yaml").read_text())[
        "providers"
    ]
    assert {(group["folder"], group["interval"], group["orgId"]) for group in FILE["groups"]} == {
        (provider["folder"], "30s", 1)
    }


@pytest.mark.parametrize("name", RULES)
class TestEveryRule:
    def test_waits_and_says_what_the_rule_of_prometheus_does(self, name: str) -> None:
        rule, alert = RULES[name], ALERTS[name]
        assert (rule["for"], rule["keepFiringFor"]) == (alert.get("for", "0s"), alert.get("keep_firing_for", "0s"))
        for annotation in ("summary", "runbook_url"):
            assert rule["annotations"][annotation] == alert["annotations"][annotation]
        assert rule["annotations"].keys() == alert["annotations"].keys()
        default = re.compile(rf'"severity", "{alert["labels"]["severity"]}", "", ""')
        assert (rule["labels"].get("severity") == alert["labels"]["severity"]) != bool(
            default.search(rule["data"][0]["model"]["expr"])
        )

    def test_its_uid_is_valid_and_unique(self, name: str) -> None:
        assert re.fullmatch(r"[a-z]{1,40}", RULES[name]["uid"])
        assert [rule["uid"] for rule in RULES.values()].count(RULES[name]["uid"]) == 1

    def test_its_texts_need_nothing_that_grafana_does_not_have(self, name: str) -> None:
        for text in RULES[name]["annotations"].values():
            # Provisioning would replace it by an environment variable.
            assert "$" not in text
            for part in re.findall(r"\{\{(.*?)\}\}", text):
                assert not re.search(r"\bquery\b", part)
                if ".Labels" in part and not part.startswith((" if", "- if")):
                    assert part.strip().endswith("| urlquery") or re.match(r' printf "%.200q" \.Labels\.\w+ $', part)

    def test_its_query_needs_no_recorded_series(self, name: str) -> None:
        query = RULES[name]["data"][0]["model"]["expr"]
        assert not [recorded for recorded in rules("record") if recorded in query]

    def test_its_data_has_only_fields_of_the_published_schema(self, name: str) -> None:
        data = RULES[name]["data"]
        assert RULES[name]["condition"] == data[-1]["refId"]
        for item in data:
            written = json.loads(JSONEncoder().encode(alerting.Query.from_json(dict(item))))
            assert {key: written.get(key) for key in item} == item
            model = json.loads(JSONEncoder().encode(MODELS[item["refId"]].from_json(dict(item["model"]))))
            assert {key: model.get(key) for key in item["model"]} == item["model"]
