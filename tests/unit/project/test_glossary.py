"""docs/glossary.md: the metrics, configuration keys and API fields that it names exist."""

import re

import pytest

from exporter.config.keys import KEYS
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage

TEXT = (REPOSITORY / "docs" / "glossary.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| **")]
METRIC, KEY, FIELD = 2, 3, 4


def named(column: int) -> set[str]:
    return {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[column])}


def test_terms_are_defined_once_in_a_sentence() -> None:
    terms = [term for row in ROWS for term in re.findall(r"\*\*([^*]+)\*\*", row[0])]
    assert len(terms) >= 25
    assert len(terms) == len(set(terms))
    assert all(len(row) == 5 and row[1].endswith(".") for row in ROWS)


def test_metrics_exist() -> None:
    assert named(METRIC) <= {name.removeprefix("tempo_anomaly_") for name in WholePage.full().families()}


def test_configuration_keys_exist() -> None:
    assert named(KEY) <= {key.dotted for key in KEYS.values()}


def test_api_fields_are_documented_as_such() -> None:
    """docs/api.md lists all fields, and `test_api_docs.py` holds that list to the code."""
    fields = (REPOSITORY / "docs" / "api.md").read_text("utf-8").partition("\n## Keys\n")[2]
    assert named(FIELD) <= set(re.findall(r"^\| `(\w+)` \|", fields, re.MULTILINE))


@pytest.mark.parametrize("term", ["series", "window", "slot", "baseline", "flag", "evaluation window", "changepoint"])
def test_the_terms_that_are_easily_confused_are_there(term: str) -> None:
    assert f"**{term}**" in TEXT
