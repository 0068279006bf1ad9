import re
from pathlib import Path

from exporter.runtime.telemetry import FAILURE_REASONS, SKIP_REASONS, STORAGE_FAILURES
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage

TEXT = (REPOSITORY / "docs" / "reliability.md").read_text("utf-8")
SOURCE = "\n".join(file.read_text("utf-8") for file in sorted((REPOSITORY / "exporter").rglob("*.py")))


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def rows() -> list[list[str]]:
    """Return the cells of the tables of faults."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line.startswith("| ") and line.count("|") == 7 and not line.startswith(("| fault", "| ---"))
    ]


def test_named_metrics_and_reasons_exist() -> None:
    known = {name.removeprefix("tempo_anomaly_") for name in WholePage.full().families()}
    cells = [row[2] for row in rows()]
    assert len(cells) > 20
    for named in (name for cell in cells for name in in_code(cell)):
        name, reason = re.fullmatch(r'(\w+(?=\{|$))?\{?(?:reason="(\w+)"\}?)?', named).groups()  # type: ignore[union-attr]
        assert name is None or name in known, named
        assert reason is None or reason in (*FAILURE_REASONS, *SKIP_REASONS, *STORAGE_FAILURES), named


def test_named_events_and_messages_are_logged() -> None:
    joined = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    for cell in (row[3] for row in rows()):
        for text in in_code(cell):
            event = text.removeprefix("event=")
            assert (event if event == text else f'"{event}"') in joined, text


def test_named_tests_exist_and_all_fault_tests_are_named() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", TEXT)
    assert len(named) > 10
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
    assert {file.name for file in (REPOSITORY / "tests" / "e2e").glob("test_faults_*.py")} <= {
        Path(name).name for name in named
    }
