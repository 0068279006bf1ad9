"""Overrides are validated like the configuration."""

from pathlib import Path

import pytest

from exporter.backtest.overrides import load_config_with
from exporter.config import ConfigError, load_config
from exporter.config.keys import KEYS


def problems(*settings: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_config_with(None, environ or {}, settings)
    return refused.value.problems


def test_override_takes_precedence_over_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("detection: {ratio: 3, swing: 4}\ntimezone: Asia/Taipei\n", "utf-8")
    config = load_config_with(
        file, {"DETECTION_RATIO": "5", "STATS_MIN_SAMPLES": "7"}, ["detection.ratio=2", "detection.window=10m"]
    )
    assert (config.detection.ratio, config.detection.swing) == (2, 4)
    assert config.detection.window.total_seconds() == 600
    assert (config.stats.min_samples, config.timezone) == (7, "Asia/Taipei")


def test_no_overrides_give_the_configuration() -> None:
    assert load_config_with(None, {}, []) == load_config(None, {})


def test_override_replaces_an_invalid_variable() -> None:
    assert load_config_with(None, {"DETECTION_RATIO": "nonsense"}, ["detection.ratio=2"]).detection.ratio == 2


def test_last_override_of_a_key_wins() -> None:
    assert load_config_with(None, {}, ["detection.ratio=2", "detection.ratio=3"]).detection.ratio == 3


def test_override_is_parsed_like_a_variable() -> None:
    config = load_config_with(None, {}, ["calendar.weekend=friday, saturday", " timezone = Asia/Tehran "])
    assert config.calendar.weekend == ("friday", "saturday")
    assert config.timezone == "Asia/Tehran"


@pytest.mark.parametrize(
    ("setting", "variable", "value"),
    [
        ("detection.ratio=0.5", "DETECTION_RATIO", "0.5"),
        ("detection.alpha=2", "DETECTION_ALPHA", "2"),
        ("detection.hold=soon", "DETECTION_HOLD", "soon"),
        ("timezone=Mars", "TIMEZONE", "Mars"),
        ("calendar.holidays=XX", "CALENDAR_HOLIDAYS", "XX"),
        ("fallback.nearby_hours_range=99", "FALLBACK_NEARBY_HOURS_RANGE", "99"),
    ],
)
def test_invalid_override_is_reported_like_a_variable(setting: str, variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, {variable: value})
    expected = tuple(problem.replace(f"environment variable {variable}", "--set") for problem in refused.value.problems)
    assert problems(setting) == expected
    assert "(--set)" in expected[0]


def test_all_problems_are_reported_together() -> None:
    found = problems("detection.ratio=0", "detectoin.ratio=2", "detection.lookback=60d", environ={"STATS_K": "x"})
    assert len(found) == 4
    text = "\n".join(found)
    assert "did you mean detection.ratio?" in text
    assert "storage.retention (28d) must be at least detection.lookback (60d)" in text
    assert "stats.k (environment variable STATS_K)" in text


@pytest.mark.parametrize("setting", ["", "=", "=2", "nonsense", "detection", "detection.=2", ".ratio=2", "a\x1b[31m=2"])
def test_unknown_key_is_rejected(setting: str) -> None:
    (problem,) = problems(setting)
    assert "(--set) is not a known key" in problem
    assert problem.isprintable()


@pytest.mark.parametrize("setting", ["detection.ratio", "detection.ratio=", "detection.ratio= "])
def test_key_without_a_value_is_rejected(setting: str) -> None:
    assert problems(setting) == ("detection.ratio (--set) has no value: write --set detection.ratio=VALUE",)


@pytest.mark.parametrize("key", [key.dotted for key in KEYS.values() if key.path[0] in {"tempo", "polling", "web"}])
def test_key_without_effect_is_rejected_without_its_value(key: str) -> None:
    assert problems(f"{key}=hunter2") == (f"{key} (--set) has no effect on a backtest",)
