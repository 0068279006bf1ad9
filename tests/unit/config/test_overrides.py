"""The list ``overrides``: its values, its errors, and what they become."""

from pathlib import Path

import pytest

from exporter.app.settings import evaluation_settings
from exporter.config import Config, ConfigError, effective_yaml
from exporter.model.span import SeriesKey
from tests.support.config_files import Load, Problems, loader, refuser
from tests.support.paths import REPOSITORY

PAY = SeriesKey("shop", "POST /pay")
KEPT = "no more is kept of any endpoint"
TEXT = """
detection: {ratio: 3}
overrides:
  - match: ^batch/
    enabled: false
  - match: POST /pay
    severity: critical
    detection: {ratio: 2, min_delta: 250ms, window: 10m, lookback: 7d}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    return refuser(tmp_path)


def test_values_apply_to_what_matches(load: Load) -> None:
    settings = evaluation_settings(load(TEXT))
    policy = settings.policy(PAY)
    assert policy is not None
    assert [str(each) for each in policy.applied] == [
        "window 10m, by overrides[1]",
        "ratio 2, by overrides[1]",
        "min_delta 250ms, by overrides[1]",
        "lookback 7d, by overrides[1]",
        "severity critical, by overrides[1]",
    ]
    parameters = settings.parameters(PAY)
    assert (parameters.ratio, parameters.min_delta_seconds, parameters.window_seconds) == (2, 0.25, 600)
    assert (policy.is_enabled, policy.severity, settings.rules(PAY).lookback_seconds) == (True, "critical", 7 * 86_400)


def test_other_series_have_the_settings_of_all(load: Load) -> None:
    settings = evaluation_settings(load(TEXT))
    cart = SeriesKey("shop", "GET /cart")
    assert (settings.policy(cart), settings.parameters(cart).ratio) == (None, 3)
    batch = settings.policy(SeriesKey("batch", "run"))
    assert batch is not None
    assert (batch.is_enabled, batch.parameters) == (False, settings.shift)


def test_every_key_of_detection_can_be_overridden(load: Load) -> None:
    own = (
        "{window: 6m, min_traces: 11, max_window: 50m, ratio: 1.5, min_delta: 6ms, swing: 3, alpha: 0.01, hold: 61s, "
        "clear_hold: 121s, lookback: 13d, accept_after: 25h, "
        "regression: {ratio: 1.3, min_delta: 2ms, accept_after: 10d}, errors: {ratio: 3, min_delta: 0.05}, "
        "traffic: {enabled: false, drop: 0.3, surge: 4}}"
    )
    everywhere = evaluation_settings(load(f"detection: {own}"))
    policy = evaluation_settings(load(f"overrides: [{{match: pay, detection: {own}}}]")).policy(PAY)
    assert policy is not None
    assert (policy.parameters, policy.rules) == (everywhere.shift, everywhere.fallback)
    detection = Config().detection
    # Except what is read of all endpoints alike.
    keys = type(detection).model_fields.keys() - {"errors", "regression", "traffic"}
    sections = (detection.regression, detection.traffic)
    assert len(policy.applied) == len(keys) + sum(len(type(section).model_fields) for section in sections) + len(
        ("errors.ratio", "errors.min_delta")
    )


@pytest.mark.parametrize(
    "text", ["detection: {traffic: {surge: 1}}", "overrides: [{match: a, detection: {traffic: {surge: 0.5}}}]"]
)
def test_a_surge_is_a_multiple_of_the_usual_traffic(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match=r"detection.traffic.surge must be 0, or above 1"):
        load(text)


def test_what_counts_as_failed_cannot_be_overridden(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"overrides\[0\].*must set only ratio and min_delta of detection.errors"):
        load("overrides: [{match: pay, detection: {errors: {enabled: false}}}]")


def test_the_environment_replaces_the_list(load: Load) -> None:
    config = load(TEXT, {"OVERRIDES": '[{match: "^a/", severity: info}]'})
    assert [(each.match, each.severity) for each in config.overrides] == [("^a/", "info")]


def test_the_effective_configuration_loads_as_the_same_and_has_only_what_is_set(load: Load) -> None:
    config = load(TEXT)
    shown = effective_yaml(config)
    assert load(shown) == config
    assert shown.count("ratio:") == 4
    assert shown.count("severity:") == 1


def test_all_errors_are_reported_together(problems: Problems) -> None:
    found = problems(
        "overrides:\n"
        "  - match: '(?=x)'\n"
        "    severety: info\n"
        "  - detection: {ratio: 0.5, raito: 2, min_delta: 5}\n"
        "    severity: page\n"
        "  - {match: x, ratio: 2}\n"
        "  - {match: y}\n"
    )
    assert len(found) == 9
    text = "\n".join(found)
    for part in (
        "overrides[0].match (c.yaml line 2) ",
        "overrides[0].severety (c.yaml line 3) is not a known key; did you mean overrides[0].severity?",
        "overrides[1].match (c.yaml line 4) is missing",
        "overrides[1].detection.ratio (c.yaml line 4) must be greater than 1",
        "overrides[1].detection.raito (c.yaml line 4) is not a known key; did you mean overrides[1].detection.ratio?",
        "overrides[1].detection.min_delta (c.yaml line 4) needs a unit",
        "overrides[1].severity (c.yaml line 5) must be one of critical, warning, info, not 'page'",
        "overrides[2].ratio (c.yaml line 6) is not a known key; did you mean overrides[2].detection.ratio?",
        "overrides[3] (c.yaml line 7) overrides nothing: set a key of detection, enabled or severity",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (
            "max_window: 2h",
            f"detection.max_window (1h) must be at least overrides[0].detection.max_window (2h): {KEPT}",
        ),
        (
            "lookback: 20d",
            f"detection.lookback (14d) must be at least overrides[0].detection.lookback (20d): {KEPT}",
        ),
        (
            "lookback: 30m",
            "overrides[0].detection.lookback (30m) must be at least polling.backfill_batch (1h): no window would fit",
        ),
        (
            "window: 2h",
            "detection.max_window (1h) must be at least overrides[0].detection.window (2h): the window may grow to it",
        ),
        (
            "max_window: 1m",
            "overrides[0].detection.max_window (1m) must be at least detection.window (5m): the window may grow to it",
        ),
    ],
)
def test_an_override_fits_what_is_kept(problems: Problems, own: str, problem: str) -> None:
    assert problems(f"overrides: [{{match: x, detection: {{{own}}}}}]") == (problem,)


def test_the_example_of_the_documentation(load: Load) -> None:
    section = (REPOSITORY / "docs/configuration.md").read_text("utf-8").partition("\n## Overrides\n")[2]
    settings = evaluation_settings(load(section.partition("```yaml\n")[2].partition("```")[0]))
    pay = SeriesKey("checkout", "POST /pay")
    dev = SeriesKey("shop", "GET /cart", (("env", "dev"),))
    found = [
        settings.policy(key) for key in (pay, SeriesKey("reports", "monthly"), dev, pay._replace(span_name="GET /"))
    ]
    assert [each and (each.parameters.ratio, each.is_enabled, each.severity) for each in found] == [
        (1.4, True, "critical"),
        (2, True, "info"),
        (1.4, False, None),
        None,
    ]
