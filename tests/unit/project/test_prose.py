"""``tools/prose.py``: which texts it reads, and what it reports."""

from pathlib import Path

import pytest

from tools.prose import IDIOMS, ROOT, files, findings, main, parse_idioms

LIST = parse_idioms("# a comment\n\nof late => recently\nanew => again\n[.;:] meanwhile => until then\n")


def lines_found(path: str, text: str) -> list[tuple[int, str]]:
    return [(finding.line, finding.words) for finding in findings(path, text, LIST)]


def test_markdown_is_read_whole_with_line_numbers_across_line_breaks() -> None:
    assert lines_found("docs/a.md", "One\nwindow of\nlate. Then anew;\nmeanwhile it waits.\n") == [
        (2, "of late"),
        (3, "anew"),
        (3, "; meanwhile"),
    ]


def test_only_whole_words_match_and_case_does_not_matter() -> None:
    assert lines_found("docs/a.md", "renewal, anewish, of lately, Of Late\n") == [(1, "Of Late")]


def test_code_in_backquotes_is_skipped() -> None:
    assert lines_found("docs/a.md", "`anew` and ``of late`` but `not\nthis anew` and anew\n") == [(2, "anew")]


def test_an_unpaired_backquote_hides_nothing_beyond_its_paragraph() -> None:
    assert lines_found("docs/a.md", "a ` b\n\nanew ` c\n") == [(3, "anew")]


def test_real_output_in_markdown_is_skipped_and_other_blocks_are_read() -> None:
    output = "<!-- begin: run -->\n```text\nanew\n```\n<!-- end -->\n"
    assert lines_found("docs/a.md", f"{output}```yaml\na: 1  # anew\n```\n") == [(7, "anew")]


def test_python_comments_docstrings_names_and_strings_are_read() -> None:
    source = '''\
"""Reads it
anew."""

def reads_of_late():  # begins anew
    key = "anew"
    return f"{key} is read anew"
'''
    assert lines_found("exporter/a.py", source) == [(2, "anew"), (4, "anew"), (4, "of late"), (6, "anew")]


def test_consecutive_comment_lines_are_one_text() -> None:
    assert lines_found("exporter/a.py", "x = 1\n# read of\n# late\n") == [(2, "of late")]
    assert lines_found("exporter/a.py", "x = 1  # read of\n# late\n") == []


@pytest.mark.parametrize("path", ["tests/unit/test_a.py", "exporter/explain/words.py"])
def test_strings_of_tests_and_served_sentences_are_skipped(path: str) -> None:
    assert lines_found(path, 'x = "read it anew"  # anew\n') == [(1, "anew")]


@pytest.mark.parametrize("line", ["anew", "anew =>", "(anew => again"])
def test_a_malformed_list_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_idioms(f"# comment\n{line}\n")


def test_a_finding_is_printed_with_place_words_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.prose.ROOT", tmp_path)
    page, clean = tmp_path / "page.md", tmp_path / "clean.md"
    page.write_text("Read\nit anew.\n")
    clean.write_text("Read it again.\n")
    assert main([str(page), str(clean)]) == 1
    assert capsys.readouterr().out == 'page.md:2: "anew": again; rebuild, recompute, reread\n'
    assert main([str(clean)]) == 0
    assert capsys.readouterr().out == ""


def test_the_list_of_the_project_is_valid_and_its_advice_does_not_contradict_it() -> None:
    idioms = parse_idioms(IDIOMS.read_text("utf-8"))
    assert len(idioms) > 20
    assert [idiom.advice for idiom in idioms if any(other.pattern.search(idiom.advice) for other in idioms)] == []


def test_code_documents_configuration_and_workflows_are_read_and_data_is_not() -> None:
    read = {file.relative_to(ROOT).as_posix() for file in files(ROOT)}
    assert read >= {
        "README.md", "Makefile", "pyproject.toml", "docs/glossary.md", "exporter/app/app.py", "tests/conftest.py",
        "configs/prometheus/rules/tempo-anomaly.alerts.yml", "grafana/dashboards/tempo-anomaly-overview.json",
        ".github/workflows/ci.yml",
    }  # fmt: skip
    assert not any(name.startswith(("tests/recordings", "benchmarks/data")) for name in read)
