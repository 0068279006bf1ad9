"""docs/backtest.md: its examples run, its output is real, and its options and keys exist."""

import json
import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exporter.cli.main import load_command, main
from exporter.config.keys import KEYS
from exporter.model.span import SeriesKey
from tests.support.backtest_traffic import Incident, requests, write_csv, write_history
from tests.support.paths import REPOSITORY

TEXT = (REPOSITORY / "docs" / "backtest.md").read_text("utf-8")
COMMAND = "tempo-anomaly-exporter backtest"
EXAMPLES = re.findall(rf"^{COMMAND}.*$", TEXT, re.MULTILINE)
DAYS = 5
TRAFFIC = {
    SeriesKey("batch", "nightly export"): requests(
        DAYS, 20, [Incident(24.0 * day + 3, 24.0 * day + 4, 4.0) for day in range(1, DAYS)], seed=1, median_ms=2000
    ),
    SeriesKey("checkout", "POST /pay"): requests(
        DAYS, 40, [Incident(86.2, 87.0, 4.0), Incident(105.0, 105.5, 1.3)], seed=2, median_ms=80
    ),
    SeriesKey("search", "GET /search"): requests(DAYS, 20, [Incident(64.0, 999.0, 2.5)], seed=3, median_ms=35),
}


def block(name: str) -> str:
    """Return the content of the fenced block behind a marker."""
    found = re.search(rf"<!-- begin: {name} -->\n```\w+\n(.*?)```\n<!-- end -->", TEXT, re.DOTALL)
    assert found, name
    return found[1]


def called(example: str) -> Result:
    """Run an example of the document, without the redirections and pipes of the shell."""
    words = takewhile(lambda word: word not in {"|", ">"}, shlex.split(example))
    return CliRunner().invoke(main, list(words)[1:])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with all files that the examples name."""
    directory = tmp_path_factory.mktemp("docs")
    write_csv(directory / "traffic.csv", {f"{key.service_name}/{key.span_name}": rows for key, rows in TRAFFIC.items()})
    write_history(directory / "tempo-anomaly.db", TRAFFIC, DAYS)
    write_csv(directory / "slower.csv", {"a/b": requests(13, 20, [Incident(240.0, 999.0, 1.6)], seed=1)})
    (directory / "incidents.json").write_text(block("labels"), "utf-8")
    (directory / "exporter.yaml").write_text("timezone: UTC\n", "utf-8")
    return directory


@pytest.fixture(autouse=True)
def in_its_directory(clean_environment: None, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)


def test_examples_run_and_a_previous_run_serves_as_labels() -> None:
    assert len(EXAMPLES) >= 5
    for example in [each for each in EXAMPLES if not each.startswith(f"{COMMAND} --csv")]:
        result = called(example)
        assert (result.exit_code, result.stderr) == (0, ""), example
        if example.endswith("> before.json"):
            Path("before.json").write_text(json.dumps(json.loads(result.stdout)["episodes"]), "utf-8")
    same = called(f"{COMMAND} --labels before.json --json")
    assert json.loads(same.stdout)["score"]["recall"] == json.loads(same.stdout)["score"]["precision"] == 1


def test_traffic_and_output_are_real() -> None:
    assert Path("traffic.csv").read_text("utf-8").startswith(block("traffic"))
    (example,) = (example for example in EXAMPLES if example.endswith("--learn 2d"))
    assert called(example).stdout == block("output"), f"put the output of {example} between the markers"


def test_proposal_for_a_budget_is_real() -> None:
    (example,) = (example for example in EXAMPLES if example.endswith("--budget 3/week"))
    assert called(example).stdout.endswith(f"\n\n{block('budget')}")


def test_documented_options_are_exactly_the_existing_ones() -> None:
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT.replace("<!--", "").replace("-->", "")))
    of_all_commands = {"--config", "--log-level", "--version"}
    options = {name for parameter in load_command("backtest").params for name in parameter.opts}
    assert documented <= options
    assert options - of_all_commands <= documented


def test_named_settings_exist() -> None:
    named = set(re.findall(r"[`\s]((?:calendar|stats|fallback|detection|storage)\.\w+)", TEXT))
    assert len(named) > 5
    assert named <= {key.dotted for key in KEYS.values()}


def test_documented_keys_are_exactly_those_of_the_json() -> None:
    _, _, section = TEXT.partition("\n## JSON\n")
    rows = re.findall(r"^\| (`.*?) \|", section.partition("\n## ")[0], re.MULTILINE)
    documented = [key for row in rows for key in re.findall(r"`([^`]+)`", row)]
    assert len(set(documented)) == len(documented)
    found = leaves(json.loads(called(f"{COMMAND} --labels incidents.json --budget 3/week --json").stdout))
    # The parts by kind have the keys of the whole.
    of_kinds = {path for path in found if ".by_kind." in path}
    whole = {re.sub(r"\.by_kind\.(shift|errors|traffic)", "", path) for path in of_kinds}
    assert whole <= found | {"budget.overrides", "budget.detection"}
    found = (found - of_kinds) | {f"{path.partition('.')[0]}.by_kind" for path in of_kinds}
    # What stays as it is, is left out. Nothing fails here, and no traffic drops.
    optional = {f"budget.overrides[].detection.{key}" for key in ("ratio", "min_delta", "errors", "traffic")}
    optional |= {f"episodes[].explanation.{key}" for key in OF_OTHER_KINDS}
    # A regression needs more history than the other examples have.
    regression = leaves(json.loads(called(f"{COMMAND} --csv slower.csv --json").stdout))
    of_regressions = {path for path in regression if path.startswith("series[].regressions[]")}
    assert of_regressions
    assert found & optional
    assert set(documented) - optional == (found - {"series[].regressions"} | of_regressions) - optional


OF_OTHER_KINDS = (
    "requests",
    "failures",
    "usual_ratio",
    "limit_ratio",
    "usual_requests",
    "seconds",
    "source_ratio",
)
"""Keys of explanations of errors and traffic."""


def leaves(document: object) -> set[str]:
    """Return the paths of all values, such as ``series[].accepted[].at_unix``."""

    def paths(value: object, path: str) -> set[str]:
        if isinstance(value, dict) and value:
            return {each for key, item in value.items() for each in paths(item, f"{path}.{key}" if path else key)}
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            return {each for item in value for each in paths(item, f"{path}[]")}
        return {path}

    found = paths(document, "")
    # A list that is empty in one place and filled in another is documented by its items only.
    return {path for path in found if not any(other.startswith(f"{path}[]") for other in found)}
