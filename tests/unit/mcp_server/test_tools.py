"""The tools over the API of an exporter with data: what they answer is what the API answers, and short."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from click.testing import CliRunner
from mcp import Client
from mcp.types import CallToolResult, TextContent

from exporter.cli.main import main
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.mcp_server.answers import MAX_BYTES
from exporter.mcp_server.server import build_server
from exporter.mcp_server.tools import ExporterTools
from exporter.model.critical_path import TraceSpan
from exporter.model.span import SeriesKey
from exporter.store import Store
from exporter.verify.client import ExporterClient
from exporter.web.http import HttpRequest, HttpResponse, Site
from tests.support.causes import two_that_share_a_cause
from tests.support.samples import DAY, HOSTILE_KEY, KEY, LONG_KEY, NOON, small_snapshot
from tests.support.wsgi import ask, serving
from tests.unit.web.test_api import MS, NOW, PROD, STAGING, TRACE, Bench, labelled  # noqa: F401 - a fixture
from tests.unit.web.test_openapi import whole_cause, whole_snapshot

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

CART: Final = {"service_name": "checkout", "span_name": "GET /cart"}
WORST: Final = SeriesKey("\x00" * 8000, "\u202e" * 8000)
Call = Callable[..., "Answer"]


class Answer:
    """The result of a tool call.

    Attributes:
        text: as the model gets it.
        document: the JSON in it.
    """

    def __init__(self, result: Any) -> None:
        assert isinstance(result, CallToolResult)
        (content,) = result.content
        assert isinstance(content, TextContent)
        self.is_error = result.is_error
        self.text = content.text
        assert len(self.text.encode()) <= MAX_BYTES

    @property
    def document(self) -> Any:
        return json.loads(self.text)


def calling(url: str, **options: Any) -> Call:
    """Return what calls a tool with the client of the library, in this process."""
    server = build_server(ExporterTools(lambda: ExporterClient(url, pause=lambda _: None, **options)))

    def call(tool: str, **arguments: Any) -> Answer:
        async def run() -> Any:
            async with Client(server) as client:
                return await client.call_tool(tool, arguments)

        return Answer(anyio.run(run))

    return call


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mcp") / "history.db"


@pytest.fixture(scope="module")
def bench(database: Path) -> Iterator[Bench]:
    store = Store.open(database)
    bench = Bench(store)
    bench.incidents.observe(two_that_share_a_cause(), NOW)
    bench.incidents.save()
    yield bench
    store.close()


@pytest.fixture(scope="module")
def url(bench: Bench) -> Iterator[str]:
    with serving(bench.site) as url:
        yield url


@pytest.fixture
def call(bench: Bench, url: str) -> Iterator[Call]:
    bench.snapshot, bench.cause = whole_snapshot(), whole_cause()
    yield calling(url)
    bench.snapshot, bench.trace, bench.cause = small_snapshot(), list(TRACE), None


def differences(answer: Any, whole: Any, place: str = "") -> list[str]:
    """List where an answer has something else than the document; objects and lists may be shorter."""
    if isinstance(answer, dict) and isinstance(whole, dict):
        return [
            line
            for name, value in answer.items()
            for line in (
                differences(value, whole[name], f"{place}.{name}") if name in whole else [f"{place}.{name} is new"]
            )
        ]
    if isinstance(answer, list) and isinstance(whole, list) and len(answer) <= len(whole):
        pairs = zip(answer, whole[: len(answer)], strict=True)
        return [line for number, pair in enumerate(pairs) for line in differences(*pair, f"{place}[{number}]")]
    is_cut = isinstance(answer, str) and isinstance(whole, str) and answer.endswith("…") and len(answer) > 500
    same = type(answer) is type(whole) and (whole.startswith(answer[:-1]) if is_cut else answer == whole)
    return [] if same else [f"{place} is {whole!r}, not {answer!r}"]


TOOLS: Final = [
    ("list_endpoints", {}),
    ("list_endpoints", {"only_anomalous": False, "match": "cart"}),
    ("list_endpoints", {"only_anomalous": False, "service_name": "checkout"}),
    ("list_incidents", {}),
    ("get_incident", {"incident": "66a1fcc708d7"}),
    ("explain_endpoint", {**CART, "duration": "500ms"}),
    ("explain_endpoint", {**CART, "at": "2026-11-16T12:00:00Z"}),
    ("explain_why", CART),
    ("explain_why", {**CART, "at": NOON - DAY}),
    ("get_baseline", CART),
    ("get_baseline", {**CART, "at": NOON - DAY + 0.5}),
    ("get_trace_path", {"trace_id": "c0ffee"}),
    ("get_trace_path", {"trace_id": "c0ffee", "service_name": "stock", "span_name": "reserve"}),
]


@pytest.mark.parametrize(("tool", "arguments"), TOOLS)
def test_an_answer_is_part_of_the_response_at_its_address(
    bench: Bench, call: Call, tool: str, arguments: Mapping[str, Any]
) -> None:
    answer = call(tool, **arguments)
    assert not answer.is_error, answer.text
    document = answer.document
    path, _, query = document.pop("api").partition("?")
    document.pop("left_out", None)
    assert differences(document, json.loads(ask(bench.site, path, query=query).body)) == []
    assert len(document) > 1 or "incidents" in document


@pytest.mark.usefixtures("clean_environment")
def test_an_answer_is_part_of_what_explain_prints(
    call: Call, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {**CART, "duration": "500ms", "at": NOON - DAY}
    answer = call("explain_endpoint", **arguments).document
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exporter.cli.explain.time.time", lambda: NOW)
    options = ["--service", "checkout", "--span", "GET /cart", "--duration", "500ms", "--at", str(NOON - DAY)]
    result = CliRunner().invoke(main, ["explain", *options, "--json"], env={"STORAGE_PATH": str(database)})
    assert differences({**answer, "api": ""}, {**json.loads(result.stdout), "api": ""}) == []


class TestLongAnswers:
    def every_item(self, call: Call, name: str, tool: str, **arguments: Any) -> list[Any]:
        """Return all items of a list, as an agent gets them that does what the answers say."""
        items: list[Any] = []
        more: dict[str, int] = {}
        while True:
            document = call(tool, **arguments, **more).document
            found = document
            for key in name.split("."):
                found = found[key]
            items += found
            rest = {each["list"]: each for each in document.get("left_out", ())}.get(name)
            if rest is None:
                return items
            parameter, _, value = rest["get"].partition("=")
            assert (parameter, value) == ("skip", str(len(items)))
            more = {"skip": int(value)}

    def test_all_endpoints(self, bench: Bench, call: Call) -> None:
        series = [SeriesStatus(SeriesKey("shop", f"GET /{number:04}"), shift=True) for number in range(250)]
        bench.snapshot = Snapshot(NOW, series=tuple(series))
        first = call("list_endpoints").document
        assert (first["total"], first["left_out"][0]["items"]) == (250, 250 - len(first["series"]))
        found = self.every_item(call, "series", "list_endpoints")
        assert [each["span_name"] for each in found] == [each.key.span_name for each in series]

    def test_items_behind_the_longest_page_of_the_api(self, bench: Bench, call: Call) -> None:
        series = [SeriesStatus(SeriesKey("shop", f"{number:04}" + "x" * 900)) for number in range(1003)]
        bench.snapshot = Snapshot(NOW, series=tuple(series))
        answer = call("list_endpoints", only_anomalous=False, skip=1001).document
        assert [each["span_name"][:4] for each in answer["series"]] == ["1001", "1002"]
        assert "left_out" not in answer
        assert "cursor" not in answer["api"]
        assert call("list_endpoints", only_anomalous=False, skip=2000).document["series"] == []

    def test_all_slots_of_a_baseline(self, call: Call) -> None:
        slots = self.every_item(call, "slots", "get_baseline", **CART)
        assert len({each["slot"]["name"] for each in slots}) == len(slots) == 48

    def test_all_steps_of_a_trace(self, bench: Bench, call: Call) -> None:
        start = int(NOON * 1e9)
        root = TraceSpan("r", "", *KEY[:2], "server", start, 1000 * MS)
        calls = [
            TraceSpan(f"{number}", "r", "db", f"SELECT {number} <b>", "client", start + number * MS, MS)
            for number in range(150)
        ]
        bench.trace = [root, *calls]
        steps = self.every_item(call, "critical_path", "get_trace_path", trace_id="1")
        assert len(steps) == 151

    def test_incidents_behind_a_page_are_at_least_so_many(
        self, bench: Bench, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = bench.incidents.newest(1, None)
        many = page._replace(incidents=list(page.incidents) * 100, next=(float(NOON), "x"))
        monkeypatch.setattr(bench.incidents, "newest", lambda *_: many)
        answer = call("list_incidents").document
        shown = len(answer["incidents"])
        assert answer["left_out"] == [
            {"list": "incidents", "items": 100 - shown, "get": f"skip={shown}", "at_least": True}
        ]

    @pytest.mark.parametrize("key", [LONG_KEY, HOSTILE_KEY, WORST, SeriesKey("", "")])
    def test_any_name_can_be_used_as_an_answer_has_it(self, bench: Bench, call: Call, key: SeriesKey) -> None:
        assert bench.snapshot is not None
        whole, bench.cause = replace(bench.snapshot.series[1], cause=None), None
        bench.snapshot = Snapshot(NOW, series=(replace(whole, key=key), SeriesStatus(KEY)))
        listed = call("list_endpoints").document["series"][0]
        names = {name: listed[name] for name in ("service_name", "span_name", "labels") if name in listed}
        for tool in ("explain_endpoint", "get_baseline", "explain_why"):
            answer = call(tool, **names).document
            assert {name: answer[name] for name in names} == names
            path, _, query = answer["api"].partition("?")
            response = json.loads(ask(bench.site, path, query=query).body)
            assert (response["service_name"], response["span_name"]) == key[:2]

    def test_a_trace_of_the_worst_names(self, bench: Bench, call: Call) -> None:
        bench.trace = [
            TraceSpan(
                f"{number}", f"{number - 1}" if number else "", *WORST[:2], "server", number * MS, (50 - number) * MS
            )
            for number in range(50)
        ]
        answer = call("get_trace_path", trace_id="1").document
        assert answer["critical_path"]
        assert answer["left_out"][0]["list"] == "critical_path"


class TestHostileNames:
    def test_names_are_strings_and_nothing_else(self, call: Call) -> None:
        answer = call("list_endpoints", only_anomalous=False, match="script")
        assert "<" not in answer.text
        assert answer.text.isprintable()
        assert [(each["service_name"], each["span_name"]) for each in answer.document["series"]] == [HOSTILE_KEY[:2]]

    def test_errors_quote_them_too(self, call: Call) -> None:
        answer = call("explain_endpoint", service_name="<b>\n", span_name="x", at="<i>\n")
        assert answer.is_error
        assert "<" not in answer.text
        assert answer.document["error"]["errors"][0]["parameter"] == "at"


class TestErrors:
    def test_unknown_endpoint_names_similar_ones(self, call: Call) -> None:
        answer = call("explain_endpoint", service_name="checkout", span_name="GET /carts")
        error = answer.document["error"]
        assert (answer.is_error, error["status"], error["nearest"][0]) == (True, 404, CART)

    @pytest.mark.parametrize(
        ("tool", "arguments", "parameter"),
        [
            ("explain_endpoint", {**CART, "duration": "2"}, "duration"),
            ("get_baseline", {**CART, "at": "noon"}, "at"),
            ("get_baseline", {**CART, "labels": {"env": "x"}}, "env"),
            ("explain_why", {**CART, "labels": {"name": "x"}}, "name"),
            ("get_trace_path", {"trace_id": "zz"}, "trace_id"),
        ],
    )
    def test_invalid_arguments_are_named(
        self, call: Call, tool: str, arguments: Mapping[str, Any], parameter: str
    ) -> None:
        answer = call(tool, **arguments)
        assert answer.is_error
        assert [each["parameter"] for each in answer.document["error"]["errors"]] == [parameter]

    @pytest.mark.parametrize("arguments", [{"service_name": "checkout"}, {**CART, "labels": "x"}, {**CART, "skip": -1}])
    def test_arguments_that_the_schema_excludes_are_refused(self, call: Call, arguments: Mapping[str, Any]) -> None:
        answer = call("explain_why", **arguments)
        assert answer.is_error
        assert "validation error" in answer.text

    def test_several_endpoints_of_a_name_are_listed(self, labelled: Site) -> None:  # noqa: F811
        with serving(labelled) as url:
            answer = calling(url)("explain_endpoint", service_name="shop", span_name="GET /")
            assert answer.document["error"]["matching"] == [PROD.fields, STAGING.fields]
            answer = calling(url)("explain_endpoint", **PROD.fields)
        assert answer.document["labels"] == PROD.fields["labels"]

    def test_an_exporter_that_does_not_respond(self) -> None:
        with serving(Site({}, None)) as url:  # type: ignore[arg-type]
            missing = calling(url)("list_incidents")
        assert missing.document["error"]["status"] == 404
        gone = calling(url)("list_incidents")
        assert (missing.is_error, gone.is_error) == (True, True)
        assert "Check that the exporter is running and that --url is correct" in gone.document["error"]["detail"]

    def test_a_server_that_is_no_exporter(self) -> None:
        def page(_: HttpRequest) -> HttpResponse:
            return HttpResponse(b"[1]", "application/json")

        with serving(Site({"/api/v1/incidents": page}, None)) as url:  # type: ignore[arg-type]
            answer = calling(url)("list_incidents")
        assert "did not return JSON: is this the exporter?" in answer.document["error"]["detail"]

    @pytest.mark.parametrize(
        ("body", "shown"),
        [(b"{}", "the response has no series"), (b'{"series": [], "next_cursor": "x"}', '"at_least":true')],
    )
    def test_a_response_that_no_exporter_gives(self, body: bytes, shown: str) -> None:
        def page(_: HttpRequest) -> HttpResponse:
            return HttpResponse(body, "application/json")

        with serving(Site({"/api/v1/series": page}, None)) as url:  # type: ignore[arg-type]
            assert shown in calling(url)("list_endpoints", skip=5).text

    def test_a_text_that_does_not_fit_into_an_answer(self, call: Call) -> None:
        answer = call("list_endpoints", match="x" * 5000)
        assert answer.is_error
        assert answer.document["error"]["detail"] == "the answer is too long for a tool; use the API"

    def test_user_and_password_are_sent(self, bench: Bench) -> None:
        with serving(with_password(bench.site, "anna", "sécret")) as url:
            right = calling(url, user="anna", password="sécret")("list_incidents")
            wrong = calling(url, user="anna", password="secret")("list_incidents")
        assert (right.is_error, wrong.is_error) == (False, True)
        assert "check --user and --password-file" in wrong.document["error"]["detail"]


def with_password(application: "WSGIApplication", user: str, password: str) -> "WSGIApplication":
    """Return an application that demands a password."""
    wanted = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def guarded(environ: Any, start_response: Any) -> Any:
        if environ.get("HTTP_AUTHORIZATION") == wanted:
            return application(environ, start_response)
        start_response("401 Unauthorized", [("Content-Type", "text/plain")])
        return [b"no"]

    return guarded


def test_every_tool_is_read_only_and_described(url: str) -> None:
    async def run() -> Any:
        async with Client(build_server(ExporterTools(lambda: ExporterClient(url)))) as client:
            return await client.list_tools(), client.instructions

    listed, instructions = anyio.run(run)
    assert {each.name for each in listed.tools} == {tool for tool, _ in TOOLS}
    for each in listed.tools:
        assert each.annotations.read_only_hint
        assert not each.annotations.destructive_hint
        assert len(each.description) > 40
        assert all(parameter.get("description") for parameter in each.input_schema["properties"].values())
    assert "never instructions" in instructions
