"""Log lines: what is written of an event, and that nothing can break out of its line."""

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Literal, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from exporter.runtime.logs import Log, configure, get_logger
from tests.support.samples import Clock

Format = Literal["logfmt", "json"]
HOSTILE = 'a "quoted"\nlevel=error\r\x1b[31mred\x00\x7f\x85\u2028\u202e\ud800 = \\ ü 日本'


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)


def parse_logfmt(line: str) -> dict[str, str]:
    """Parse a logfmt line strictly: only ``key=value``, values bare or quoted as in JSON."""
    fields = {}
    rest = line
    while rest:
        match = re.match(r'([A-Za-z0-9_.-]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)( |$)', rest)
        assert match, rest
        key, value, _ = match.groups()
        assert key not in fields
        fields[key] = json.loads(value) if value.startswith('"') else value
        rest = rest[match.end() :]
    return fields


def written(write: Callable[[], object], format_: Format = "logfmt", level: str = "debug") -> list[str]:
    """Return the lines that are written while a function logs."""
    stream = io.StringIO()
    root = logging.getLogger()
    others, root.handlers[:] = root.handlers[:], []  # those of pytest raise on the faulty records of these tests
    try:
        configure(level, format_, stream)
        write()
    finally:
        root.handlers[:] = others
    text = stream.getvalue()
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


def line_of(message: str, format_: Format, fields: Mapping[str, object]) -> str:
    """Return the line of an event."""
    (line,) = written(lambda: get_logger("test").info("tested", message, **fields), format_)
    return line


def fields_of(format_: Format = "logfmt", **fields: object) -> dict[str, object]:
    """Return the fields of an event as they are parsed from its line."""
    line = line_of("something", format_, fields)
    found: dict[str, object] = dict(parse_logfmt(line)) if format_ == "logfmt" else json.loads(line)
    assert list(found)[:5] == ["ts", "level", "logger", "event", "msg"]
    return {name: value for name, value in found.items() if name not in {"ts", "level", "logger", "event", "msg"}}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Colour(Enum):
    RED = "red"


class Kind(StrEnum):
    SHIFT = "shift"


class TestLine:
    def test_logfmt(self) -> None:
        start = datetime(2026, 11, 22, 8, tzinfo=UTC)
        (line,) = written(
            lambda: get_logger("backfill").info("window_read", "window read", window=start, traces=4810, coverage=1.0)
        )
        ts, rest = line.split(" ", 1)
        assert re.fullmatch(r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ts)
        assert rest == (
            'level=info logger=backfill event=window_read msg="window read" window=2026-11-22T08:00:00Z traces=4810 '
            "coverage=1"
        )

    def test_json(self) -> None:
        (line,) = written(
            lambda: get_logger("backfill").warning("window_read", "window read", traces=4810, coverage=0.5), "json"
        )
        fields = json.loads(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("ts"))
        assert fields == {
            "level": "warning", "logger": "backfill", "event": "window_read", "msg": "window read", "traces": 4810,
            "coverage": 0.5,
        }  # fmt: skip

    def test_the_timestamp_is_that_of_the_record(self) -> None:
        record = logging.makeLogRecord({"name": "x", "msg": "y", "levelno": 20, "created": 1795339945.1239})
        (line,) = written(lambda: logging.getLogger().handle(record))
        assert parse_logfmt(line)["ts"] == "2026-11-22T09:32:25.123Z"

    @pytest.mark.parametrize(
        ("value", "logfmt"),
        [
            (None, "null"),
            (True, "true"),
            (0, "0"),
            (-17, "-17"),
            (1 << 70, "1180591620717411303424"),
            (1.0000000001, "1"),
            (0.1 + 0.2, "0.3"),
            (1.5e-7, "1.5e-07"),
            (1795339945.1234, "1795339945.123"),
            (1234567.0, "1234567"),
            (1e21, "1e+21"),
            (float("nan"), "NaN"),
            (float("inf"), "+Inf"),
            (float("-inf"), "-Inf"),
            ("", ""),
            ("GET /api/x?y=1", "GET /api/x?y=1"),
            (b"raw\xff", "raw\\xff"),
            (datetime(2026, 11, 22, 8, 0, 0, 250_000, tzinfo=UTC), "2026-11-22T08:00:00.250Z"),
            (datetime(2026, 11, 22, 8, tzinfo=timezone(timedelta(hours=5, minutes=45))), "2026-11-22T02:15:00Z"),
            (datetime(2026, 11, 22, 8), "2026-11-22T08:00:00"),  # noqa: DTZ001 - tested on purpose
            (date(2026, 11, 22), "2026-11-22"),
            (timedelta(seconds=1.2345678), "1.23457s"),
            (timedelta(days=7), "604800s"),
            (Path("/data/x.db"), "/data/x.db"),
            (Colour.RED, "red"),
            (Kind.SHIFT, "shift"),
            (Decimal("1.5"), "1.5"),
            (SecretStr("hunter2"), "**********"),
            (ValueError("bad\nthing"), "ValueError: bad\nthing"),
            (TimeoutError(), "TimeoutError"),
            (["a", "b c", 3, 0.5], "a,b c,3,0.5"),
            (("a", ["b"]), '["a", ["b"]]'),
            (frozenset({7}), "7"),
            ({"a": {"b": 1.0000000001}}, '{"a": {"b": 1.0}}'),
            (Unprintable(), "<unprintable Unprintable>"),
            ([Unprintable()], "<unprintable Unprintable>"),
            ({Unprintable(): 1}, "<unprintable dict>"),
        ],
    )
    def test_values_are_formatted_for_people(self, value: object, logfmt: str) -> None:
        assert fields_of(value=value) == {"value": logfmt}

    @pytest.mark.parametrize(
        ("value", "in_json"),
        [
            (None, None),
            (True, True),
            (3, 3),
            (0.1 + 0.2, 0.3),
            (float("inf"), "+Inf"),
            (1 << 70, "1180591620717411303424"),
            (timedelta(seconds=90), "90s"),
            (["a", 1, None, [2.0]], ["a", 1, None, [2.0]]),
            ({"a": {1: date(2026, 1, 1)}}, {"a": {"1": "2026-01-01"}}),
        ],
    )
    def test_json_keeps_numbers_lists_and_mappings(self, value: object, in_json: object) -> None:
        assert fields_of("json", value=value) == {"value": in_json}

    @pytest.mark.parametrize("format_", ["logfmt", "json"])
    def test_long_values_are_cut(self, format_: Format) -> None:
        fields = fields_of(format_, text="x" * 100_000, items=range(3), many=["y"] * 100_000)
        assert str(fields["text"]).endswith("x… (100000 characters)")
        assert fields["items"] == "range(0, 3)"
        (line,) = written(
            lambda: get_logger("t").info("tested", "m", many=["y"] * 100_000, text="x" * 100_000), format_
        )
        assert len(line) < 10_000

    def test_recursive_values_are_cut(self) -> None:
        loop: list[object] = []
        loop.append(loop)
        assert str(fields_of(loop=loop)["loop"]).startswith("[[[")

    def test_a_field_cannot_forge_a_standard_field(self) -> None:
        fields = parse_logfmt(line_of("x", "logfmt", {"level": 3, "ts": "y", "a b\n=": 1, "": 2}))
        assert list(fields.items())[4:] == [
            ("msg", "x"),
            ("level_", "3"),
            ("ts_", "y"),
            ("a_b__", "1"),
            ("_", "2"),
        ]

    def test_a_field_may_have_the_name_of_a_logging_argument(self) -> None:
        assert fields_of(self="a", message="b", name="c", args="d", exc_info="e") == {
            "self": "a", "message": "b", "name": "c", "args": "d", "exc_info": "e",
        }  # fmt: skip

    @pytest.mark.parametrize("format_", ["logfmt", "json"])
    def test_hostile_text_stays_in_its_field(self, format_: Format) -> None:
        (line,) = written(lambda: get_logger("a\nb").info("tested", HOSTILE, name=HOSTILE), format_)
        assert line.isprintable()
        fields = parse_logfmt(line) if format_ == "logfmt" else json.loads(line)
        assert list(fields) == ["ts", "level", "logger", "event", "msg", "name"]
        assert fields["msg"] == fields["name"] == HOSTILE.replace("\ud800", "\\ud800")
        assert fields["logger"] == "a\nb"

    def test_letters_of_any_script_are_not_escaped(self) -> None:
        (line,) = written(lambda: get_logger("x").info("tested", "größer", name="結帳"))
        assert line.endswith("msg=größer name=結帳")

    @given(message=st.text(), name=st.text(), value=st.text() | st.binary() | st.lists(st.text()), number=st.floats())
    def test_any_event_is_one_line_that_parses(self, message: str, name: str, value: object, number: float) -> None:
        for format_ in ("logfmt", "json"):
            line = line_of(message, format_, {name: value, "number": number})
            assert line.isprintable()
            fields = parse_logfmt(line) if format_ == "logfmt" else json.loads(line)
            if len(message) < 1000:
                assert fields["msg"] == message.encode("utf-8", "backslashreplace").decode()
            assert fields["level"] == "info"
            assert len(fields) in {6, 7}  # 6 where both fields have the same name


class TestExceptions:
    @pytest.mark.parametrize("format_", ["logfmt", "json"])
    def test_a_traceback_is_one_field(self, format_: Format) -> None:
        def fail() -> None:
            try:
                int(HOSTILE)
            except ValueError:
                get_logger("test").exception("tested", "failed", attempt=2)

        (line,) = written(fail, format_)
        fields = parse_logfmt(line) if format_ == "logfmt" else json.loads(line)
        assert list(fields) == ["ts", "level", "logger", "event", "msg", "attempt", "exception"]
        assert fields["level"] == "error"
        assert fields["exception"].startswith("Traceback (most recent call last):\n")
        assert "ValueError: " in fields["exception"]

    def test_a_long_traceback_keeps_its_end(self) -> None:
        def fail() -> None:
            try:
                Path("x" * 50_000 + "the end").read_text()
            except OSError:
                get_logger("test").exception("tested", "failed")

        (line,) = written(fail)
        exception = parse_logfmt(line)["exception"]
        assert exception.startswith("…")
        assert exception.endswith("the end'")
        assert len(exception) <= 8192

    def test_without_an_exception_there_is_no_traceback(self) -> None:
        (line,) = written(lambda: get_logger("test").exception("tested", "failed"))
        assert "exception" not in parse_logfmt(line)


class TestConfigure:
    @pytest.mark.parametrize(
        ("level", "expected"),
        [
            ("debug", ["debug", "info", "warning", "error"]),
            ("info", ["info", "warning", "error"]),
            ("warning", ["warning", "error"]),
            ("error", ["error"]),
        ],
    )
    def test_lower_levels_are_not_written(self, level: str, expected: list[str]) -> None:
        def write() -> None:
            log = get_logger("test")
            for method in (log.debug, log.info, log.warning, log.error):
                method("tested", "x")

        assert [parse_logfmt(line)["level"] for line in written(write, level=level)] == expected

    def test_an_unknown_level_is_refused(self) -> None:
        with pytest.raises(ValueError, match="LOUD"):
            configure("loud", "logfmt")

    def test_the_last_call_counts(self) -> None:
        first, second = io.StringIO(), io.StringIO()
        configure("debug", "logfmt", first)
        configure("info", "json", second)
        get_logger("test").info("tested", "x")
        assert first.getvalue() == ""
        assert json.loads(second.getvalue())["msg"] == "x"

    def test_standard_error_is_the_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure("info", "logfmt")
        get_logger("test").info("tested", "x")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert parse_logfmt(captured.err.rstrip("\n"))["msg"] == "x"

    def test_records_of_libraries_have_the_same_format(self) -> None:
        def write() -> None:
            logging.getLogger("urllib3.connectionpool").warning("retry %d of %s", 2, "a b\n")
            logging.getLogger("waitress").info("x", extra={"other": "y"})

        retry, plain = (parse_logfmt(line) for line in written(write))
        assert (retry["logger"], retry["msg"]) == ("urllib3.connectionpool", "retry 2 of a b\n")
        assert list(plain) == ["ts", "level", "logger", "msg"]

    def test_faulty_records_of_libraries_are_written_as_far_as_possible(self) -> None:
        def write() -> None:
            logging.getLogger("lib").warning("%d apples", "no")
            logging.getLogger("lib").warning("%s", Unprintable())
            logging.getLogger("lib").warning(Unprintable())

        assert [parse_logfmt(line)["msg"] for line in written(write)] == [
            "%d apples",
            "%s",
            "<unprintable Unprintable>",
        ]

    @pytest.mark.parametrize(
        ("name", "shown"),
        [("backfill", "backfill"), ("exporter.store.ledger", "store.ledger"), ("exporters", "exporters")],
    )
    def test_the_logger_has_the_name_of_its_component(self, name: str, shown: str) -> None:
        (line,) = written(lambda: get_logger(name).info("tested", "x"))
        assert parse_logfmt(line)["logger"] == shown

    def test_characters_that_the_stream_cannot_encode_are_escaped(self) -> None:
        raw = io.BytesIO()
        configure("info", "logfmt", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
        get_logger("test").info("tested", "größer", name="b c")
        line = raw.getvalue().decode("ascii")
        assert line.endswith('msg=gr\\xf6\\xdfer name="b c"\n')

    def test_a_broken_stream_is_ignored(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Broken(io.StringIO):
            def write(self, text: str) -> NoReturn:
                raise BrokenPipeError

        closed = io.StringIO()
        closed.close()
        for stream in (Broken(), closed):
            configure("info", "logfmt", stream)
            get_logger("test").error("tested", "x")
        assert capsys.readouterr() == ("", "")

    def test_lines_of_several_threads_do_not_mix(self) -> None:
        def log_some() -> None:
            for number in range(50):
                get_logger("test").info("tested", "x y", number=number)

        def write() -> None:
            threads = [threading.Thread(target=log_some) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        lines = written(write)
        assert len(lines) == 400
        assert {parse_logfmt(line)["msg"] for line in lines} == {"x y"}


class TestLimitedLog:
    def test_suppresses_repeated_events_and_counts_them(self) -> None:
        clock = Clock(1000)

        def write() -> None:
            quiet = get_logger("test").limited(60, clock)
            for number in range(5):
                quiet.warning("invalid", "trace skipped", number=number)
            quiet.error("other", "trace skipped", number=5)
            clock.now += 60
            quiet.info("invalid", "trace skipped", number=6)
            quiet.debug("debug", "trace skipped", number=7)

        fields = [parse_logfmt(line) for line in written(write)]
        assert [(each["level"], each["number"], each.get("suppressed")) for each in fields] == [
            ("warning", "0", None),
            ("error", "5", None),
            ("info", "6", "4"),
            ("debug", "7", None),
        ]


def test_a_log_of_an_existing_logger_keeps_its_name() -> None:
    (line,) = written(lambda: Log(logging.getLogger("elsewhere")).info("tested", "x"))
    assert parse_logfmt(line)["logger"] == "elsewhere"


def test_configure_takes_the_current_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure("info", "logfmt")
    monkeypatch.undo()
    get_logger("test").info("tested", "x")
    assert "msg=x" in stream.getvalue()
