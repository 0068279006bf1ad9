"""The shipped Prometheus rules and configuration, checked by promtool."""

from pathlib import Path

import pytest

from tests.support.alerting import PROMETHEUS, RULES
from tests.support.paths import REPOSITORY
from tests.support.programs import run_program

CASES = sorted((REPOSITORY / "tests/rules").glob("*.yml"))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_rules_pass_their_test_cases(file: Path) -> None:
    tested = run_program("promtool", "test", "rules", file.name, directory=file.parent)
    assert tested.returncode == 0, tested.stdout


def test_rules_have_no_lint_errors() -> None:
    checked = run_program("promtool", "check", "rules", "--lint-fatal", *map(str, RULES))
    assert checked.returncode == 0, checked.stdout


def test_configuration_is_valid_and_loads_all_rules() -> None:
    checked = run_program("promtool", "check", "config", "--lint-fatal", str(PROMETHEUS))
    assert checked.returncode == 0, checked.stdout
    assert f"{len(RULES)} rule files found" in checked.stdout
