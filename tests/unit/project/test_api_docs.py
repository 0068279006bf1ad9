"""docs/api.md and docs/explain.md: examples match real responses and output, and every key is explained."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exporter import __version__
from exporter.cli.main import load_command, main
from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, TraceShape, TraceStore, make_trace
from exporter.model.pattern import Pattern
from exporter.model.time_mark import MarkKind, TimeMark
from exporter.store import Store
from exporter.verify.checks import Outcome, run_checks
from exporter.web.api.openapi import openapi_document
from tests.support.causes import two_that_share_a_cause
from tests.support.paths import REPOSITORY
from tests.support.reference import with_api_keys
from tests.support.samples import DAY, HOUR, KEY, NOON, NS, around, commit_hour, evaluate_history
from tests.support.wsgi import ask
from tests.unit.verify.test_verify import HEALTHY
from tests.unit.web.test_api import Bench

DOCS = REPOSITORY / "docs"
API, EXPLAIN = ((DOCS / name).read_text("utf-8") for name in ("api.md", "explain.md"))
MS = 1_000_000


def examples() -> list[tuple[str, Any]]:
    """Return the addresses in the document with the responses that it shows."""
    found = re.findall(
        r"^```sh\ncurl -s '[^/]+//[^/]+(/[^']+)'\n```\n+```json\n(.*?)```", API, re.MULTILINE | re.DOTALL
    )
    return [(address, json.loads(body)) for address, body in found]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    store = Store.in_memory()
    found = Bench(store)
    found.incidents.observe(two_that_share_a_cause(), NOON + 600.0)
    found.incidents.save()
    found.marks.set_configured(
        [
            TimeMark(
                MarkKind.EXPECTED,
                Pattern("^checkout/"),
                NOON + 7 * DAY,
                NOON + 7 * DAY + 2 * HOUR,
                rule="FREQ=WEEKLY;BYDAY=SU",
                comment="maintenance window",
            )
        ]
    )
    yield found
    store.close()


def answered(bench: Bench, address: str) -> Any:
    path, _, query = address.partition("?")
    return json.loads(ask(bench.site, path, query=query).body)


def differences(shown: Any, real: Any, path: str = "") -> list[str]:
    """List where a shown response differs from the real one; shown objects and lists may be shortened."""
    if isinstance(shown, dict) and isinstance(real, dict):
        missing = [f"{path}.{name} is not there" for name in shown.keys() - real.keys()]
        return missing + [
            line
            for name in shown.keys() & real.keys()
            for line in differences(shown[name], real[name], f"{path}.{name}")
        ]
    if isinstance(shown, list) and isinstance(real, list) and len(shown) <= len(real):
        pairs = zip(shown, real[: len(shown)], strict=True)
        return [line for position, pair in enumerate(pairs) for line in differences(*pair, f"{path}[{position}]")]
    same = shown == (pytest.approx(real, rel=5e-4) if isinstance(real, float) else real)
    return [] if same else [f"{path} is {real!r}, not {shown!r}"]


def test_every_address_has_an_example_that_matches_the_response(bench: Bench) -> None:
    shown = examples()
    described = openapi_document("/api/v1/", __version__)["paths"].keys()
    assert {address.partition("?")[0] for address, _ in shown} == set(described)
    for address, body in shown:
        assert differences(body, answered(bench, address)) == [], address


def test_every_key_is_explained() -> None:
    assert with_api_keys(API) == API, "add keys to exporter/web/api/keys.py, and run: make reference"


@pytest.fixture(scope="module")
def tempo() -> Iterator[str]:
    shape = TraceShape(
        (
            Operation(*KEY[:2]),
            Operation("checkout", "POST /reserve", "client"),
            Operation("stock", "POST /reserve", "server"),
            Operation("stock", "SELECT items", "client"),
            Operation("mail", "send receipt", "consumer"),
        ),
        (ROOT, 0, 1, 2, 0),
    )
    start = (NOON - DAY + 5 * HOUR) * NS
    times = [
        SpanTimes(16, start, 640 * MS),
        SpanTimes(32, start + 30 * MS, 580 * MS),
        SpanTimes(48, start + 32 * MS, 571 * MS),
        SpanTimes(64, start + 60 * MS, 490 * MS),
        SpanTimes(80, start + 630 * MS, 2100 * MS),
    ]
    with TempoServer(TraceStore([make_trace(0x5F0C2A7D91B34E68A1C0FFEE, shape, times)]), ApiOptions()) as server:
        yield server.url


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("docs") / "history.db"
    store = Store.open(file)
    for start in range(NOON - 13 * DAY, NOON, HOUR):
        slow = NOON - DAY <= start < NOON - DAY + 2 * HOUR
        commit_hour(store, start, {KEY: around(1.0 if slow else 0.1, 30)})
    evaluate_history(store, NOON)
    store.close()
    return file


@pytest.mark.usefixtures("clean_environment")
def test_explain_prints_what_the_document_shows(stored: Path, tempo: str) -> None:
    shown = re.findall(r"<!-- begin: (explain [^>]+) -->\n```text\n(.*?)```", EXPLAIN, re.DOTALL)
    assert len(shown) == 2
    for command, output in shown:
        environment = {"STORAGE_PATH": str(stored), "TEMPO_URL": tempo}
        result = CliRunner().invoke(main, shlex.split(command), env=environment)
        assert (result.exit_code, result.stdout) == (0, output), f"put the output of {command} between the markers"
        assert f"tempo-anomaly-exporter {command}" in EXPLAIN


def test_verify_checks_exactly_the_documented_lines() -> None:
    (block,) = re.findall(r"<!-- begin: verify -->\n```text\n(.*?)```", EXPLAIN, re.DOTALL)
    shown = re.findall(r"^(PASS|WARN|FAIL)  (\S+(?: \S+)?)  +\S", block, re.MULTILINE)
    assert [name for _, name in shown] == [line.name for line in run_checks(HEALTHY)]
    totals = ", ".join(f"{[outcome for outcome, _ in shown].count(each)} {each}" for each in Outcome)
    assert block.splitlines()[-1] == totals
    explained = re.findall(r"^\| `([^`]+)`", EXPLAIN.partition("\n## verify\n")[2].partition("\n## ")[0], re.MULTILINE)
    assert explained == [line.name for line in run_checks(HEALTHY)]


def test_every_option_is_documented() -> None:
    for name in ("explain", "verify"):
        options = {option for parameter in load_command(name).params for option in parameter.opts}
        for option in options - {"--config", "--log-level", "--version"}:
            assert option in EXPLAIN, f"{name} {option}"
