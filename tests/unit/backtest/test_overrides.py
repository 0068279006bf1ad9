"""Settings for one run go through the configuration's own checks."""

from pathlib import Path

import pytest

from exporter.backtest.overrides import load_config_with
from exporter.config import ConfigError, load_config
from exporter.config.keys import KEYS


def problems(*settings: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_config_with(None, environ or {}, settings)
    return refused.value.problems


def test_beats_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("detection: {ratio: 3, swing: 4}\ntimezone: Asia/Taipei\n", "utf-8")
    config = load_config_with(
        file, {"DETECTION_RATIO": "5", "STATS_MIN_SAMPLES": "7"}, ["detection.ratio=2", "detection.window=10m"]
    )
    assert (config.detection.ratio, config.detection.swing) == (2, 4)
    assert config.detection.window.total_seconds() == 600
    assert (config.stats.min_samples, config.timezone) == (7, "Asia/Taipei")


def test_without_settings_it_is_the_configuration() -> None:
    assert load_config_with(None, {}, []) == load_config(None, {})


def test_a_setting_replaces_even_a_bad_variable() -> None:
    assert load_config_with(None, {"DETECTION_RATIO": "nonsense"}, ["detection.ratio=2"]).detection.ratio == 2


def test_the_last_of_several_counts() -> None:
    assert load_config_with(None, {}, ["detection.ratio=2", "detection.ratio=3"]).detection.ratio == 3


def test_lists_and_spaces_are_as_in_a_variable() -> None:
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
def test_complains_as_the_configuration_does(setting: str, variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, {variable: value})
    same = tuple(problem.replace(f"environment variable {variable}", "--set") for problem in refused.value.problems)
    assert problems(setting) == same
    assert "(--set)" in same[0]


def test_says_all_that_is_wrong_at_once() -> None:
    found = problems("detection.ratio=0", "detectoin.ratio=2", "detection.lookback=60d", environ={"STATS_K": "x"})
    assert len(found) == 4
    text = "\n".join(found)
    assert "did you mean detection.ratio?" in text
    assert "storage.retention (28d) must be at least detection.lookback (60d)" in text
    assert "stats.k (environment variable STATS_K)" in text


@pytest.mark.parametrize("setting", ["", "=", "=2", "nonsense", "detection", "detection.=2", ".ratio=2", "a\x1b[31m=2"])
def test_what_is_no_key_is_refused(setting: str) -> None:
    (problem,) = problems(setting)
    assert "(--set) is not a known key" in problem
    assert problem.isprintable()


@pytest.mark.parametrize("setting", ["detection.ratio", "detection.ratio=", "detection.ratio= "])
def test_a_key_without_a_value_is_refused(setting: str) -> None:
    assert problems(setting) == ("detection.ratio (--set) has no value: write --set detection.ratio=VALUE",)


@pytest.mark.parametrize("key", [key.dotted for key in KEYS.values() if key.path[0] in {"tempo", "polling", "web"}])
def test_what_plays_no_part_is_refused_and_not_repeated(key: str) -> None:
    assert problems(f"{key}=hunter2") == (f"{key} (--set) plays no part in a backtest",)
