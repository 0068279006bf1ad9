"""``marks`` and ``marks_file``: accepted and rejected values, with the complete message."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from exporter.app.marks import (
    configured_marks,
    mark_of_json,
    marks_file_problems,
    marks_for_command,
    marks_of_file,
)
from exporter.cli.main import main
from exporter.config import ConfigError, effective_yaml, load_config
from exporter.evaluation.time_marks import encode_mark
from exporter.model.time_mark import MarkKind, MarkSource
from exporter.store import Store
from exporter.web.api.parameters import BadParametersError

BERLIN = ZoneInfo("Europe/Berlin")
ONE = "{match: ^checkout/, from: 2026-11-24T14:00, to: 2026-11-24T16:30, as: expected}"


def load(tmp_path: Path, text: str) -> list[str]:
    """Return the problems of a configuration."""
    path = tmp_path / "exporter.yaml"
    path.write_text(text)
    try:
        load_config(path, {})
    except ConfigError as error:
        return [each.replace(f"{path} ", "") for each in error.problems]
    return []


def test_marks_are_local_unless_they_say_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "exporter.yaml"
    path.write_text(
        f"timezone: Europe/Berlin\nmarks:\n- {ONE}\n"
        "- {match: pay, from: 2026-11-22 02:00Z, to: 2026-11-22 03:00:01+00:00, as: Normal, rrule: FREQ=WEEKLY,"
        " comment: backup}\n"
    )
    config = load_config(path, {})
    first, second = configured_marks(config)
    assert first.start == datetime(2026, 11, 24, 14, tzinfo=BERLIN).timestamp()
    assert (first.end - first.start, first.kind, first.source) == (9000, MarkKind.EXPECTED, MarkSource.CONFIGURATION)
    assert (second.end - second.start, second.kind, second.rule, second.comment) == (
        3601,
        MarkKind.NORMAL,
        "FREQ=WEEKLY",
        "backup",
    )
    again = tmp_path / "again.yaml"
    again.write_text(effective_yaml(config))
    assert load_config(again, {}) == config


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (ONE.replace("16:30", "13:00"), "marks[0].to must be after from, not 2026-11-24 13:00:00"),
        (
            ONE.replace("expected", "wanted"),
            "marks[0].as (line 1) must be one of expected, incident, normal, not 'wanted'",
        ),
        (ONE.replace("^checkout/", "'('"), "marks[0].match (line 1) must be a regular expression, not '('"),
        (ONE.replace("from:", "form:"), "marks[0].form (line 1) is not a known key; did you mean marks[0].from?"),
        (ONE.replace("2026-11-24T14:00", "noon"), "marks[0].from (line 1) must be a time such as 2026-11-24T14:00"),
        (ONE.replace("}", ", rrule: hourly}"), "marks[0].rrule (line 1) must be a recurrence rule of RFC 5545"),
        (
            ONE.replace("}", ", rrule: FREQ=HOURLY}"),
            "marks[0].rrule (line 1) must contain FREQ with one of DAILY, WEEKLY",
        ),
        (ONE.replace("16:30", "16:30Z").replace("24T16", "29T16").replace("}", ", rrule: FREQ=DAILY}"), ""),
        (
            ONE.replace("11-24T16:30", "12-26T16:30").replace("}", ", rrule: FREQ=DAILY}"),
            "marks[0].to must be at most 31 days after from, so that the range can recur",
        ),
    ],
)
def test_invalid_mark_is_refused(tmp_path: Path, item: str, problem: str) -> None:
    problems = load(tmp_path, f"marks: [{item}]")
    assert any(each.startswith(problem) for each in problems) if problem else not problems, problems


def test_marks_over_the_api_need_passwords(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, "web: {allow_marks: true}")
    assert problem.startswith("web.allow_marks needs web.config_file with basic_auth_users")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must contain marks: and a list"),
        ("marks:", "has no value"),
        ("[1]", "must contain marks: and a list"),
        ("marks: [{match: x}]", "marks[0].from"),
        (f"marks: [{ONE}]\nother: 1", "other"),
        (f"marks: [{ONE.replace('16:30', '10:00')}]", "marks[0].to ({path} line 1) must be after from"),
        ("marks: [", "not valid YAML"),
    ],
)
def test_broken_file_says_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "marks.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        marks_of_file(path, BERLIN)
    assert problem.format(path=path) in str(error.value)
    assert str(error.value).startswith("1 problem in marks_file") or "problems in marks_file" in str(error.value)


def test_missing_file_is_a_problem_and_an_empty_list_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        marks_of_file(tmp_path / "none.yaml", BERLIN)
    (tmp_path / "marks.yaml").write_text("marks: []")
    assert marks_of_file(tmp_path / "marks.yaml", BERLIN) == []


def test_mark_is_read_from_json() -> None:
    mark = mark_of_json(
        b'{"match": "pay", "from": "2026-11-24T14:00", "to": "2026-11-24T15:00", "as": "normal"}', BERLIN
    )
    assert (mark.kind, mark.end - mark.start, mark.source) == (MarkKind.NORMAL, 3600, MarkSource.API)
    for body in (b"", b"[]", b"{", b'"x"', b"[" * 100_000):
        with pytest.raises(BadParametersError, match=r"^body must be a JSON object"):
            mark_of_json(body, BERLIN)
    with pytest.raises(BadParametersError) as refused:
        mark_of_json(b'{"match": "pay", "form": 1, "to": "2026-11-24T15:00", "as": 7}', BERLIN)
    assert {each.parameter: each.detail.partition(",")[0] for each in refused.value.errors} == {
        "form": "is not a known key; did you mean from?",
        "from": "is missing",
        "as": "must be one of expected",
    }


def test_commands_use_the_marks_of_configuration_file_and_history(tmp_path: Path) -> None:
    file, path = tmp_path / "marks.yaml", tmp_path / "exporter.yaml"
    file.write_text(f"marks: [{ONE}]")
    path.write_text(f"marks_file: {file}\nmarks: [{ONE}]")
    config = load_config(path, {})
    store = Store.in_memory()
    store.marks.save([encode_mark(replace(configured_marks(config)[0], source=MarkSource.API, id="a"))])
    found = marks_for_command(config, store)
    assert [mark.source for mark in found.marks] == [MarkSource.CONFIGURATION, MarkSource.FILE, MarkSource.API]
    assert len(marks_for_command(config, None).marks) == 2
    store.close()
    file.write_text("marks: 1")
    assert marks_file_problems(config) == (f"marks ({file} line 1) must be a list",)
    file.unlink()
    assert marks_file_problems(config) == (f"marks_file {file} cannot be read: No such file or directory",)


def test_exporter_that_would_take_marks_without_a_password_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text("{}")
    path = tmp_path / "exporter.yaml"
    path.write_text(f"web: {{config_file: {tmp_path / 'web.yml'}, allow_marks: true}}")
    result = CliRunner().invoke(main, ["--config", str(path), "--check-config"])
    assert result.exit_code == 2
    assert "web.allow_marks needs basic_auth_users in web.config_file" in result.stderr
