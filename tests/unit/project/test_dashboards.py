"""Rules for every dashboard that can be checked in its JSON."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from exporter.demo.traceql import parse
from tests.support.dashboards import BOARDS, BY_UID, GRAFANA, Board, Link, Query, interpolate, used_variables
from tests.support.whole_page import OPENMETRICS, WholePage
from tools.dashboards import main, normalised, with_labels

BUILT_IN = {"__range", "__interval", "__rate_interval", "__from", "__to", "__url_time_range", "__data", "__field"}
TYPES = {"prometheus": "${datasource}", "tempo": "${tempo}", "grafana": "-- Grafana --"}
PLAIN_UNITS = {"none", "short", "s", "percentunit", "bytes", "reqps", "dateTimeAsLocal", "dateTimeAsLocalNoDateIfToday"}
COLOURS = {
    *("green", "semi-dark-green", "yellow", "orange", "red"),
    *("dark-blue", "semi-dark-blue", "blue", "light-blue"),
    *("#8e8e8e", "text", "transparent", "rgba(0, 211, 255, 1)"),
}
SELECTOR = re.compile(r"\b((?:tempo_anomaly|process)_\w+)(?:\{((?:[^{}`\"]|`[^`]*`|\"[^\"]*\")*)\})?")
MATCHER = re.compile(r"(\w+)(?:=~|!=|=)(`[^`]*`|\"[^\"]*\")")

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)


def everything(node: Any) -> list[dict[str, Any]]:
    """Return all objects in a piece of JSON."""
    if isinstance(node, list):
        return [found for child in node for found in everything(child)]
    if isinstance(node, dict):
        return [node, *(found for child in node.values() for found in everything(child))]
    return []


def selectors(text: str) -> list[tuple[str, dict[str, str]]]:
    """Return the metrics that PromQL names, with their matchers."""
    return [
        (match[1], {name: value[1:-1] for name, value in MATCHER.findall(match[2] or "")})
        for match in SELECTOR.finditer(text)
    ]


def prometheus_queries(board: Board) -> list[Query]:
    return [query for query in board.queries() if query.source == "prometheus"]


def known_labels() -> dict[str, set[str]]:
    """Return the labels of every sample on the page, by its name."""
    labels: dict[str, set[str]] = {}
    for family in WholePage.full().families().values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def test_there_are_three_dashboards_each_in_a_file_named_by_its_uid() -> None:
    assert set(BY_UID) == {"tempo-anomaly-overview", "tempo-anomaly-endpoint", "tempo-anomaly-exporter"}
    assert all(board.path.stem == board.uid for board in BOARDS)
    assert len({board.model["title"] for board in BOARDS}) == len(BOARDS)


@each_board
def test_files_are_normalised(board: Board) -> None:
    text = board.path.read_text("utf-8")
    assert text == normalised(text), "run: make dashboards"


@each_board
def test_settings_of_the_dashboard(board: Board) -> None:
    model = board.model
    assert model["schemaVersion"] == 39
    assert model["timezone"] == "browser"
    assert model["graphTooltip"] == 1
    assert "tempo-anomaly" in model["tags"]
    assert model["description"]
    assert model["time"] == {"from": "now-6h", "to": "now"}
    assert model["refresh"] == "30s"
    assert not {"id", "version", "__inputs", "__requires"} & model.keys()


@each_board
def test_panels_have_title_description_unit_and_no_value_text(board: Board) -> None:
    for panel in board.panels:
        assert panel["title"].strip() == panel["title"] != ""
    for panel in board.charts:
        defaults = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["noValue"], panel["title"]
        assert panel["pluginVersion"], panel["title"]
        properties = [each for override in panel["fieldConfig"]["overrides"] for each in override["properties"]]
        for unit in (defaults["unit"], *(each["value"] for each in properties if each["id"] == "unit")):
            assert unit in PLAIN_UNITS or unit.startswith("suffix:"), panel["title"]


@each_board
def test_ids_are_unique_and_panels_do_not_overlap(board: Board) -> None:
    ids = [panel["id"] for panel in board.panels]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in board.panels]
    for place in places:
        assert place["x"] >= 0 and place["y"] >= 0 and place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    # Every row is full, so that no panel moves up when Grafana packs them.
    width = sum(place["w"] * place["h"] for place in places)
    assert width == 24 * max(place["y"] + place["h"] for place in places)


@each_board
def test_only_the_documented_colours_are_used(board: Board) -> None:
    for node in everything(board.model):
        for key in ("color", "fixedColor", "iconColor"):
            assert not isinstance(node.get(key), str) or node[key] in COLOURS


@each_board
def test_data_sources_are_variables(board: Board) -> None:
    sources = [node["datasource"] for node in everything(board.model) if "datasource" in node]
    assert all(source == {"type": source["type"], "uid": TYPES[source["type"]]} for source in sources)
    for holder in (*board.charts, *board.annotations, *(t for panel in board.charts for t in panel["targets"])):
        assert holder["datasource"]
    for name, kind in (("datasource", "prometheus"), ("tempo", "tempo")):
        assert (board.variables[name]["type"], board.variables[name]["query"]) == ("datasource", kind)


@each_board
def test_variables_are_labelled_refreshed_and_all_used(board: Board) -> None:
    for name, variable in board.variables.items():
        assert variable["label"] and variable["description"], name
        assert variable["includeAll"] is variable["multi"], name
        if variable["type"] == "query":
            assert variable["refresh"] == 2, name
            assert variable["definition"] == variable["query"]["query"], name
    used: set[str] = set()
    for node in everything(board.model):
        for text in node.values():
            if isinstance(text, str):
                used |= used_variables(text)
    assert used - BUILT_IN == board.variables.keys()


def test_the_variables_of_each_dashboard() -> None:
    base = ["datasource", "tempo", "job", "instance"]
    assert list(BY_UID["tempo-anomaly-overview"].variables) == [*base, "service", "endpoint"]
    assert list(BY_UID["tempo-anomaly-endpoint"].variables) == [*base, "service", "endpoint", "threshold_us"]
    assert list(BY_UID["tempo-anomaly-exporter"].variables) == base


@each_board
def test_all_selects_exporters_only_where_process_metrics_are_shown(board: Board) -> None:
    """With metrics of any process, "All" must select the exporters and not everything that Prometheus scrapes."""
    shows_any_process = any("process_" in query.text for query in prometheus_queries(board))
    for name in ("job", "instance"):
        assert board.variables[name].get("allValue") == (None if shows_any_process else ".*")


@each_board
def test_queries_use_existing_metrics_and_labels(board: Board) -> None:
    labels = known_labels()
    for query in prometheus_queries(board):
        found = selectors(query.text)
        assert found, query.place
        for metric, matchers in found:
            assert metric in labels, f"{query.place}: {metric}"
            assert matchers.keys() <= labels[metric] | {"job", "instance"}, query.place
        grouped = {
            name for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query.text) for name in group.split(", ") if name
        }
        assert grouped <= set().union(*(labels[metric] for metric, _ in found)) | {"instance"}, query.place


@each_board
def test_queries_filter_by_the_chosen_variables(board: Board) -> None:
    for query in prometheus_queries(board):
        for metric, matchers in selectors(query.text):
            if query.place.endswith("variable job"):
                assert matchers == {}
            elif query.place.endswith("variable instance"):
                assert matchers == {"job": "$job"}
            else:
                assert (matchers["job"], matchers["instance"]) == ("$job", "$instance"), query.place
            lists_names = query.place.endswith(("variable service", "variable endpoint"))
            if "service" in board.variables and "span_name" in known_labels()[metric] and not lists_names:
                chosen = (matchers["service_name"], matchers["span_name"])
                assert chosen == ("${service:regex}", "${endpoint:regex}"), query.place


@each_board
def test_ranges_follow_the_time_range_of_the_panel(board: Board) -> None:
    for query in prometheus_queries(board):
        windows = set(re.findall(r"\[([^\]]+)\]", query.text))
        assert windows <= {"$__rate_interval", "$__range", "$__range:$__interval"}, query.place
        for function, window in re.findall(r"\b(i?rate|increase)\([^\[\]]*\[([^\]]+)\]", query.text):
            assert (function, window) in {("rate", "$__rate_interval"), ("increase", "$__range")}, query.place


@each_board
def test_stats_and_tables_use_instant_queries_and_graphs_range_queries(board: Board) -> None:
    for query in prometheus_queries(board):
        if query.panel is not None:
            now = query.panel["type"] in ("stat", "table")
            assert (query.target["instant"], query.target["range"]) == (now, not now), query.place
            assert query.target["format"] == ("table" if query.panel["type"] == "table" else "time_series")


def test_coverage_turns_red_only_for_metrics_with_an_alert() -> None:
    """A window that is sampled on purpose has low coverage without anything being wrong."""
    (coverage,) = (
        panel
        for panel in everything(BY_UID["tempo-anomaly-exporter"].model)
        if (panel.get("type"), panel.get("title")) == ("stat", "Coverage")
    )
    (target,) = coverage["targets"]
    rules = (GRAFANA.parent / "configs/prometheus/rules/tempo-anomaly.alerts.yml").read_text("utf-8")
    (alert,) = (
        rule
        for group in yaml.safe_load(rules)["groups"]
        for rule in group["rules"]
        if rule.get("alert") == "TempoAnomalyCoverageLow"
    )
    shown = {name for name, _ in selectors(target["expr"])}
    assert shown <= {name for name, _ in selectors(alert["expr"])}


def test_graphs_of_all_endpoints_have_few_points() -> None:
    """With thousands of endpoints, each point costs Prometheus; docs/dashboards.md has figures."""
    for panel in BY_UID["tempo-anomaly-overview"].charts:
        if panel["type"] in ("timeseries", "state-timeline"):
            assert panel["maxDataPoints"] <= 300, panel["title"]


@each_board
def test_overrides_match_existing_fields(board: Board) -> None:
    labels = known_labels()
    for panel in board.charts:
        fields: set[str] = set()
        for target in panel["targets"]:
            fields |= {f"Value #{target['refId']}", target.get("legendFormat", "")}
            for metric, _ in selectors(target.get("expr", "")):
                fields |= labels[metric] | {"instance"}
        if [target.get("format") for target in panel["targets"]] == ["table"]:
            # Grafana numbers the values of several queries only.
            fields.add("Value")
        if panel["targets"][0].get("legendFormat") in ("{{level}}", "{{state}}"):
            label = panel["targets"][0]["legendFormat"].strip("{}")
            families = WholePage.full().families().values()
            fields |= {
                value
                for family in families
                for sample in family.samples
                for name, value in sample.labels.items()
                if name == label
            }
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in fields, panel["title"]
        for transformation in panel.get("transformations", ()):
            if transformation["id"] == "organize":
                assert transformation["options"]["indexByName"].keys() <= fields, panel["title"]


def test_the_page_of_an_endpoint_has_rate_errors_and_duration_in_one_row() -> None:
    places = {panel["title"]: panel["gridPos"] for panel in BY_UID["tempo-anomaly-endpoint"].charts}
    row = [places[title] for title in ("Rate", "Errors", "Latency and baseline")]
    assert len({(place["y"], place["h"]) for place in row}) == 1
    assert [place["x"] for place in row] == [0, 6, 12]
    assert sum(place["w"] for place in row) == 24


@each_board
def test_series_that_limit_a_band_exist(board: Board) -> None:
    for panel in board.charts:
        legends = {target.get("legendFormat") for target in panel["targets"]}
        for override in panel["fieldConfig"]["overrides"]:
            below = {each["value"] for each in override["properties"] if each["id"] == "custom.fillBelowTo"}
            assert below <= legends, panel["title"]


def test_annotation_is_the_same_for_old_and_new_grafana() -> None:
    (flag,) = BY_UID["tempo-anomaly-endpoint"].annotations
    assert flag["expr"] == flag["target"]["expr"]
    assert '{kind="shift"' in flag["expr"]


# Links

ROW = {
    "service_name": 'shop & "co"',
    "span_name": "GET /a/{id}?b=c#d",
    '["Value #I"].numeric': "0.25",
    '["Value #D"].numeric': "0.25",
}


def opened(board: Board, link: Link) -> tuple[str, dict[str, list[str]]]:
    """Return the path and the parameters of a link with all variables filled in."""
    values = {
        **{name: f"my {name}" for name in board.variables},
        **{f"__data.fields{key if key[0] == '[' else '.' + key}": text for key, text in ROW.items()},
        **{f"__field.labels.{key}": text for key, text in ROW.items() if key[0] != "["},
        "__from": "1000",
        "__to": "2000",
        "__url_time_range": "from=1000&to=2000",
        "threshold_us": "250000",
    }
    parts = urlsplit(interpolate(link.url, values, "raw"))
    return parts.path, parse_qs(parts.query, strict_parsing=True)


def all_links() -> list[tuple[Board, Link]]:
    return [(board, link) for board in BOARDS for link in board.links()]


def test_links_between_dashboards_pass_the_variables_of_the_target() -> None:
    reached = set()
    for board, link in all_links():
        path, parameters = opened(board, link)
        if path == "/explore":
            continue
        target = BY_UID[path.removeprefix("/d/")]
        reached.add((board.uid, target.uid))
        passed = {name.removeprefix("var-"): value for name, value in parameters.items() if name.startswith("var-")}
        assert passed.keys() <= target.variables.keys(), link.place
        for name in ("datasource", "tempo", "job", "instance"):
            assert passed[name] == [f"my {name}"], link.place
        if "service" in passed:
            assert passed["service"] == [ROW["service_name"]], link.place
            assert passed["endpoint"] in ([ROW["span_name"]], ["All"]), link.place
        if link.panel is not None:
            assert (parameters["from"], parameters["to"]) == (["1000"], ["2000"]), link.place
    assert reached >= {(one.uid, other.uid) for one in BOARDS for other in BOARDS if one is not other}
    assert all(link["keepTime"] for board in BOARDS for link in board.model["links"])


def test_links_to_tempo_open_a_search() -> None:
    found = [(board, link) for board, link in all_links() if link.url.startswith("/explore")]
    assert {board.uid for board, _ in found} == BY_UID.keys()
    for board, link in found:
        # A name with a quote or a backslash would break the JSON, see docs/dashboards.md.
        tame = Link(link.place, link.url.replace(".service_name", ".span_name"), link.panel)
        _, parameters = opened(board, tame)
        assert parameters["schemaVersion"] == ["1"]
        ((name, pane),) = json.loads(parameters["panes"][0]).items()
        assert re.fullmatch("[a-z]{3}", name)  # Grafana replaces any other name
        (query,) = pane["queries"]
        assert (pane["datasource"], query["datasource"]) == ("my tempo", {"type": "tempo", "uid": "my tempo"})
        assert pane["range"] == {"from": "1000", "to": "2000"}
        assert query["queryType"] == "traceql"
        condition = parse(query["query"]).condition
        if "Slow traces" in link.place:
            assert "duration > 250000us" in query["query"] or "duration > 0.25s" in query["query"]
            assert {field.name for field in condition.fields()} == {"service.name", "name", "duration"}


# Provisioning


def provisioned(kind: str) -> tuple[str, dict[str, Any]]:
    """Return the text and the content of the single file of a kind of provisioning."""
    (path,) = (GRAFANA / "provisioning" / kind).iterdir()
    text = path.read_text("utf-8")
    return text, yaml.safe_load(text)


def test_provisioned_data_sources_link_exemplars_to_traces() -> None:
    _, content = provisioned("datasources")
    sources = {source["uid"]: source for source in content["datasources"]}
    assert {uid: source["type"] for uid, source in sources.items()} == {"prometheus": "prometheus", "tempo": "tempo"}
    (destination,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["datasourceUid"] == "tempo"
    assert f'# {{{destination["name"]}="' in WholePage.full().text(OPENMETRICS)
    exemplars = [t for board in BOARDS for panel in board.charts for t in panel["targets"] if t.get("exemplar")]
    assert ["outlier_traces_total" in target["expr"] for target in exemplars] == [True]
    labels = known_labels()
    for query in sources["tempo"]["jsonData"]["tracesToMetrics"]["queries"]:
        ((metric, _),) = re.findall(r"(tempo_anomaly_\w+)(\{)", query["query"])
        assert metric in labels
        assert "service_name" in labels[metric]


def test_provisioning_files_escape_dollar_signs() -> None:
    for kind in ("datasources", "dashboards"):
        _, content = provisioned(kind)
        for node in everything(content):
            for text in node.values():
                assert not isinstance(text, str) or "$" not in text.replace("$$", "")


def test_dashboards_are_provisioned_from_a_folder() -> None:
    _, content = provisioned("dashboards")
    (provider,) = content["providers"]
    assert provider["type"] == "file"
    assert provider["options"] == {"path": "/var/lib/grafana/dashboards"}
    assert provider["allowUiUpdates"] is False


class TestLabels:
    """Copies of the dashboards for an exporter with ``series.labels``."""

    LABELS = ("deployment_environment_name", "service_namespace")

    @pytest.fixture(params=["tempo-anomaly-overview", "tempo-anomaly-endpoint"])
    def copy(self, request: pytest.FixtureRequest, tmp_path: Path) -> Board:
        path = tmp_path / f"{request.param}.json"
        text = with_labels(BY_UID[request.param].path.read_text("utf-8"), self.LABELS)
        assert text is not None
        path.write_text(text, "utf-8")
        return Board(path)

    def test_the_dashboard_of_the_exporter_needs_no_copy(self) -> None:
        assert with_labels(BY_UID["tempo-anomaly-exporter"].path.read_text("utf-8"), self.LABELS) is None

    def test_there_is_a_variable_for_each_label_behind_the_endpoint(self, copy: Board) -> None:
        names = list(copy.variables)
        position = names.index("endpoint") + 1
        assert tuple(names[position : position + 2]) == self.LABELS
        test_variables_are_labelled_refreshed_and_all_used(copy)

    def test_queries_select_and_keep_the_labels(self, copy: Board) -> None:
        for query in prometheus_queries(copy):
            for _, matchers in selectors(query.text):
                if "service_name" in matchers:
                    assert {name: matchers[name] for name in self.LABELS} == {
                        name: f"${{{name}:regex}}" for name in self.LABELS
                    }
            for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query.text):
                names = group.split(", ")
                assert "service_name" not in names or set(self.LABELS) <= set(names), query.place

    def test_links_to_dashboards_about_endpoints_pass_the_labels(self, copy: Board) -> None:
        for link in copy.links():
            passes = [f"var-{name}=" in link.url or f"${{{name}:queryparam}}" in link.url for name in self.LABELS]
            is_about_endpoints = re.match(r"/d/tempo-anomaly-(overview|endpoint)\?", link.url) is not None
            assert passes == [is_about_endpoints] * 2, link.place

    def test_a_command_writes_the_copies(self, tmp_path: Path) -> None:
        main(["--label", self.LABELS[0], "--output", str(tmp_path / "new")])
        assert {file.name for file in (tmp_path / "new").iterdir()} == {
            "tempo-anomaly-endpoint.json", "tempo-anomaly-overview.json",
        }  # fmt: skip
        with pytest.raises(SystemExit):
            main(["--label", self.LABELS[0]])
