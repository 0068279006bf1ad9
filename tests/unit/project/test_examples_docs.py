"""docs/examples.md shows output of the present exporter: its events, messages, commands and options exist."""

import ast
import json
import re
import shlex
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import REPOSITORY
from tests.unit.project.test_documents import assert_is_ours
from tools.examples import DOCUMENT, with_blocks
from tools.formatting import fields, laid_out, shortened

TEXT = DOCUMENT.read_text("utf-8")
BLOCKS = dict(re.findall(r"<!-- begin: ([^>]+) -->\n```\w+\n(.*?)```\n<!-- end -->", TEXT, re.DOTALL))
LOGS = ("backfill", "saturated", "dense", "restart", "outage", "flag")
SHOWS = {
    "backfill": ("event=started", "event=window_read", "event=backfill_complete"),
    "saturated": ("event=window_saturated", "splits=1", "expired_windows="),
    "dense": ("event=window_sampled", "coverage=0."),
    "restart": ("event=stopped", "event=backfill_complete"),
    "outage": ("event=window_failed", "event=poll_failed", "event=backfill_complete"),
    "flag": ("event=shift_firing", "event=shift_resolved"),
    "once": ("history: ", "slower than usual at this moment", "complete"),
    "explain healthy": ("<- serves",),
    "explain outlier": ("is an outlier for checkout POST /checkout",),
    "explain unavailable": ("level 5",),
    "explain trace": ("critical path",),
    "check": ('"outlier": true',),
    "check question": ("/api/v1/check",),
    "verify healthy": ("0 FAIL",),
    "verify short": ("Tempo's retention seems to be 12 h", "WARN", "FAIL"),
    "verify outage": ("FAIL tempo", "Tempo did not answer the last request"),
}
"""Every block, and what it must show."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=60),
    lambda parts: st.lists(parts, max_size=6) | st.dictionaries(st.text(max_size=20), parts, max_size=6),
)


def log_lines() -> list[str]:
    return [line for name in LOGS for line in BLOCKS[name].splitlines() if line.startswith("ts=")]


@cache
def literals() -> frozenset[str]:
    """Return all string literals in the source of the exporter."""
    return frozenset(
        node.value
        for file in (REPOSITORY / "exporter").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_every_block_exists_and_shows_what_it_is_for() -> None:
    assert set(BLOCKS) == set(SHOWS)
    unwrapped = {name: re.sub(r"\s+", " ", block) for name, block in BLOCKS.items()}
    missing = {name: [text for text in texts if text not in unwrapped[name]] for name, texts in SHOWS.items()}
    assert not {name: texts for name, texts in missing.items() if texts}


def test_events_and_messages_are_those_of_the_exporter() -> None:
    lines = [fields(line) for line in log_lines()]
    texts = {line[name] for line in lines for name in ("event", "msg")} | set(re.findall(r"event=(\w+)", TEXT))
    assert len(texts) > 20
    assert texts <= literals()


def test_logs_are_nothing_but_whole_lines() -> None:
    for name in LOGS:
        for line in filter(None, BLOCKS[name].splitlines()):
            assert (
                re.match(r"… [\d,]+ more of event=", line)
                or {"ts", "level", "logger", "event", "msg"} <= fields(line).keys()
            )


def test_commands_and_options_exist() -> None:
    commands = re.findall(r"^\$ tempo-anomaly-exporter (.+)$", "\n".join(BLOCKS.values()), re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        assert_is_ours(shlex.split(command))


def test_the_response_has_the_fields_of_a_check() -> None:
    answer = json.loads(BLOCKS["check"])
    assert {"service_name", "bucket", "level", "baseline", "duration", "sentence"} <= answer.keys()


def test_output_contains_no_paths_of_a_machine() -> None:
    assert not re.search(r"(?<![\w.])/(?:home|tmp|work|root|usr)/", "\n".join(BLOCKS.values()))


# The tool that writes it


def test_fields_of_a_line() -> None:
    line = r'ts=1 msg="a \"quoted\" b" listening="[[\"127.0.0.1\", 1]]" kept=12 coverage=0.5 tls=false state=done'
    assert fields(line) == {
        "ts": 1,
        "msg": 'a "quoted" b',
        "listening": [["127.0.0.1", 1]],
        "kept": 12,
        "coverage": 0.5,
        "tls": False,
        "state": "done",
    }


@pytest.mark.parametrize(
    ("repeated", "shown"),
    [
        (1, ["event=read n=0"]),
        (4, ["event=read n=0", "event=read n=1", "event=read n=2", "event=read n=3"]),
        (9, ["event=read n=0", "event=read n=1", "… 6 more of event=read", "event=read n=8"]),
    ],
)
def test_a_run_of_the_same_event_is_shortened(repeated: int, shown: list[str]) -> None:
    log = [f"event=read n={number}" for number in range(repeated)]
    assert shortened(["event=started", *log, "event=stopped"]).splitlines() == [
        "event=started",
        *shown,
        "event=stopped",
    ]


@given(JSON)
def test_laid_out_json_has_the_same_value(value: object) -> None:
    assert json.loads(laid_out(value)) == value


def test_json_that_fits_is_on_one_line() -> None:
    value = {"bucket": {"hour": 3}, "hours": [{"start_unix": 1_794_000_000 + n, "traces": n} for n in range(4)]}
    assert laid_out(value).splitlines() == [
        "{",
        '  "bucket": {"hour": 3},',
        '  "hours": [',
        '    {"start_unix": 1794000000, "traces": 0},',
        '    {"start_unix": 1794000001, "traces": 1},',
        '    {"start_unix": 1794000002, "traces": 2},',
        '    {"start_unix": 1794000003, "traces": 3}',
        "  ]",
        "}",
    ]


def test_only_the_content_of_blocks_is_replaced() -> None:
    first = "<!-- begin: a -->\n```text\nold\n```\n<!-- end -->\n"
    document = f"A\n\n{first}\nB\n<!-- begin: b -->\n```json\n1\n```\n<!-- end -->\n"
    assert with_blocks(document, {"a": "new \\1\nlines\n"}) == document.replace("old", "new \\1\nlines")
    assert with_blocks(document, {}) == document


def test_a_block_without_a_place_is_rejected() -> None:
    with pytest.raises(ValueError, match="0 places for 'c'"):
        with_blocks("nothing\n", {"c": "text"})
