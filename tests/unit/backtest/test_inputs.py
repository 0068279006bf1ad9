"""Recorded traffic and labels from valid and invalid files."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.backtest.labels import Label, LabelsError, read_labels
from exporter.backtest.traffic import RequestSample, Traffic, TrafficError, median_step_seconds, read_traffic

HEADER = "series,unix_seconds,duration_ms\n"


def write(directory: Path, content: str | bytes) -> Path:
    file = directory / "traffic.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(directory: Path, rows: str) -> Traffic:
    return read_traffic(write(directory, HEADER + rows))


def test_each_row_is_a_request(tmp_path: Path) -> None:
    traffic = read(tmp_path, "a,1491041280,31.3\nb,5.25,0\na,1491041220,0.5\n")
    assert list(traffic.series["a"]) == [
        RequestSample(1491041280_000_000_000, 31_300_000),
        RequestSample(1491041220_000_000_000, 500_000),
    ]
    assert traffic.series["a"].in_order()[0].duration_ns == 500_000
    assert list(traffic.series["b"]) == [RequestSample(5_250_000_000, 0)]
    assert (traffic.rows, traffic.bad_rows.total(), traffic.first_bad_line) == (3, 0, None)


@pytest.mark.parametrize(
    ("column", "values"),
    [("failed", ("1", "0", "")), ("status", ("error", "ok", "")), (" failed ", ("TRUE", "false", ""))],
)
def test_a_fourth_column_says_whether_requests_failed(tmp_path: Path, column: str, values: tuple[str, ...]) -> None:
    rows = [f"a,{number},5,{value}" for number, value in enumerate(values)]
    header = f"{HEADER.strip()},{column}"
    traffic = read_traffic(write(tmp_path, "\n".join([header, *rows, "a,4,5,perhaps", "a,6,7"])))
    assert [request.failed for request in traffic.series["a"].in_order()] == [True, False, None]
    assert sorted(traffic.bad_rows) == ["with neither 0 nor 1 as failed", "without exactly four fields"]


def test_without_the_column_failures_are_unknown(tmp_path: Path) -> None:
    assert [request.failed for request in read(tmp_path, "a,1,2\n").series["a"]] == [None]


@pytest.mark.parametrize("header", ["series,unix_seconds", "series,unix_seconds,duration_ms,code"])
def test_another_header_is_an_error(tmp_path: Path, header: str) -> None:
    with pytest.raises(TrafficError, match="failed or status"):
        read_traffic(write(tmp_path, f"{header}\n"))


def test_gzip_is_detected_by_content(tmp_path: Path) -> None:
    content = (HEADER + "a,1,2\n").encode()
    assert list(read_traffic(write(tmp_path, gzip.compress(content))).series) == ["a"]


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_spreadsheet_files_are_read(tmp_path: Path, start: bytes, end: bytes) -> None:
    content = start + end.join([HEADER.strip().encode(), b'"GET /a,b ""c""",1,2', b"", b"d,3,4"])
    traffic = read_traffic(write(tmp_path, content))
    assert set(traffic.series) == {'GET /a,b "c"', "d"}
    assert not traffic.bad_rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param("a,1", "three fields", id="a field too few"),
        pytest.param("a,1,2,3", "three fields", id="a field too many"),
        pytest.param('"a,1,2', "three fields", id="a quote that is not closed"),
        pytest.param('"a"x,1,2', "three fields", id="text behind a quote"),
        pytest.param("a" * 100_000 + ",1,2", "three fields", id="a very long line"),
        pytest.param(",1,2", "without a series", id="no series"),
        pytest.param("a,,2", "Unix seconds", id="no time"),
        pytest.param("a,yesterday,2", "Unix seconds", id="a time in words"),
        pytest.param("a,1491041280000,2", "Unix seconds", id="a time in milliseconds"),
        pytest.param("a,-1,2", "Unix seconds", id="a negative time"),
        pytest.param("a,nan,2", "Unix seconds", id="a time that is not a number"),
        pytest.param("a,1,inf", "milliseconds", id="an endless duration"),
        pytest.param("a,1,-2", "milliseconds", id="a negative duration"),
        pytest.param("a,1,1e13", "milliseconds", id="a duration of centuries"),
        pytest.param("a,1,\0", "milliseconds", id="a zero byte"),
    ],
)
def test_bad_row_is_counted_and_left_out(tmp_path: Path, row: str, reason: str) -> None:
    traffic = read(tmp_path, f"a,1,2\n\n{row}\na,3,4\n")
    assert [request.start_ns for request in traffic.series["a"]] == [1_000_000_000, 3_000_000_000]
    assert traffic.bad_rows.total() == 1
    assert reason in next(iter(traffic.bad_rows))
    assert (traffic.rows, traffic.first_bad_line) == (3, 4)
    message = traffic.bad_rows_message(Path("f.csv"))
    assert message is not None
    assert "1 of 3 rows" in message
    assert "line 4" in message


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_feed_in_quotes_belongs_to_the_name(tmp_path: Path, end: str) -> None:
    traffic = read(tmp_path, end.join(["a,1,2", '"GET /a', "", 'b ""c""",3,4', '"d', 'e",5,6', "f,7,8", ""]))
    assert set(traffic.series) == {"a", f'GET /a{end}{end}b "c"', f"d{end}e", "f"}
    assert (traffic.rows, traffic.bad_rows.total()) == (4, 0)


@pytest.mark.parametrize("lines", [1, 2, 40])
def test_stray_quote_costs_its_own_line_only(tmp_path: Path, lines: int) -> None:
    """Also where a later line closes it, or has another stray quote."""
    good = "".join(f"a,{number},2\n" for number in range(lines))
    traffic = read(tmp_path, f'"stray,1,2\n{good}"b""c",3,4\n"also stray,5,6\nd,7,8\n')
    assert len(traffic.series["a"]) == lines
    assert "d" in traffic.series
    assert traffic.first_bad_line == 2
    assert traffic.rows == lines + 4


def test_many_stray_quotes_take_linear_time(tmp_path: Path) -> None:
    traffic = read(tmp_path, '"a,1,2\n' * 20_000)
    assert traffic.bad_rows.total() == traffic.rows


def test_no_message_without_bad_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "a,1,2\n").bad_rows_message(Path("f.csv")) is None


def test_series_with_different_invalid_bytes_are_distinct(tmp_path: Path) -> None:
    file = write(tmp_path, HEADER.encode() + b"a\xff,1,2\na\xfe,1,2\n")
    assert set(read_traffic(file).series) == {"a\\xff", "a\\xfe"}


@given(st.binary(max_size=300))
def test_any_bytes_after_the_header_are_read_or_counted(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    traffic = read_traffic(write(tmp_path_factory.mktemp("any"), HEADER.encode() + content))
    assert sum(map(len, traffic.series.values())) + traffic.bad_rows.total() == traffic.rows
    assert traffic.rows <= content.count(b"\n") + 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a,1,2\n", id="no header"),
        pytest.param(b"unix_seconds,series,duration_ms\n", id="another order"),
        pytest.param(b"\x00\x01\x02", id="no text"),
        pytest.param(b"x" * 1_000_000, id="a very long line"),
    ],
)
def test_file_without_the_header_is_rejected(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TrafficError, match="the header must be series,unix_seconds,duration_ms") as refused:
        read_traffic(write(tmp_path, content))
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_damaged_file_is_rejected(tmp_path: Path, damage: str) -> None:
    content = gzip.compress((HEADER + "".join(f"a,{n},{n % 7}.5\n" for n in range(5000))).encode())
    middle = len(content) // 2
    content = {
        "cut": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
        "not gzip": content[:2] + b"nonsense",
    }[damage]
    with pytest.raises(TrafficError, match="damaged"):
        read_traffic(write(tmp_path, content))


def test_unreadable_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrafficError, match="cannot be read"):
        read_traffic(tmp_path)


def test_number_of_rows_is_reported_regularly(tmp_path: Path) -> None:
    reported: list[int] = []
    read_traffic(write(tmp_path, HEADER + "a,1,2\n" * 25_000), reported.append)
    assert reported == [10_000, 20_000]


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=9))
def test_median_step_seconds(seconds: list[int]) -> None:
    ordered = [RequestSample(second * 10**9, 1) for second in sorted(seconds)]
    gaps = sorted((b.start_ns - a.start_ns) / 1e9 for a, b in pairwise(ordered))
    step = median_step_seconds(ordered)
    assert sum(gap <= step for gap in gaps) * 2 >= len(gaps)
    assert sum(gap >= step for gap in gaps) * 2 >= len(gaps)


def test_median_step_of_a_single_request_is_zero() -> None:
    assert median_step_seconds([RequestSample(1, 1)]) == 0


def write_labels(directory: Path, content: object) -> Path:
    file = directory / "labels.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def test_read_labels(tmp_path: Path) -> None:
    entries = [
        {"series": "a", "start_unix": 5, "end_unix": 9.5, "ignore": True, "points": 3},
        {"series": "b", "start_unix": 1, "end_unix": 1},
    ]
    assert read_labels(write_labels(tmp_path, entries)) == [Label("a", 5, 9.5, True), Label("b", 1, 1, False)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "not a file of labels", id="empty"),
        pytest.param(b"\xff\xfe", "not a file of labels", id="no text"),
        pytest.param(b"[" * 100_000, "not a file of labels", id="nested deeply"),
        pytest.param({"series": "a"}, "not a file of labels", id="no list"),
        pytest.param([{"series": "a", "start_unix": 1}], "end_unix", id="no end"),
        pytest.param([{"series": 1, "start_unix": 1, "end_unix": 2}], r"\$\[0\]\.series", id="a number for a name"),
        pytest.param([{"series": "a", "start_unix": True, "end_unix": 2}], "start_unix", id="a boolean for a time"),
        pytest.param(
            b'[{"series":"a","start_unix":1,"end_unix":1e999}]', "not a file of labels|no finite", id="infinite"
        ),
        pytest.param([{"series": "a", "start_unix": 3, "end_unix": 2}], r"\$\[0\] ends \(2\) before", id="backwards"),
    ],
)
def test_invalid_labels_are_rejected(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(LabelsError, match=message):
        read_labels(write_labels(tmp_path, content))


def test_many_invalid_labels_are_one_short_message(tmp_path: Path) -> None:
    entries = [{"series": "a", "start_unix": 3, "end_unix": 2}] * 1000
    with pytest.raises(LabelsError, match="and 995 more") as refused:
        read_labels(write_labels(tmp_path, entries))
    assert str(refused.value).count("\n") < 10


def test_missing_labels_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "none.json")
