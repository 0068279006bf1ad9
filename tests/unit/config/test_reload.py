from typing import Any

import pytest

from exporter.config import Config, ConfigError
from exporter.config.contradictions import contradictions
from exporter.config.keys import KEYS
from exporter.config.reload import is_reloadable, take_over


def config(**sections: Any) -> Config:
    return Config.model_validate(sections)


def test_nothing_has_changed() -> None:
    current = config(detection={"ratio": 2})
    found = take_over(current, config(detection={"ratio": 2}))
    assert (found.taken, found.left) == ((), ())
    assert found.config == current


def test_changed_keys_are_taken_over_or_left() -> None:
    current = config(tempo={"url": "http://a:3200", "limit": 100}, detection={"ratio": 2, "hold": "10s"})
    wanted = config(
        tempo={"url": "http://b:3200", "limit": 100},
        detection={"ratio": 3, "window": "10m"},
        overrides=[{"match": "shop", "enabled": False}],
        calendar={"weekend": ["friday"]},
        log={"level": "debug"},
    )
    found = take_over(current, wanted)
    assert set(found.taken) == {"overrides", "calendar.weekend", "detection.ratio", "detection.hold", "log.level"}
    assert set(found.left) == {"tempo.url", "detection.window"}
    assert found.config.tempo == current.tempo
    assert found.config.detection.ratio == 3
    assert found.config.detection.hold == wanted.detection.hold
    assert found.config.detection.window == current.detection.window
    assert found.config.overrides == wanted.overrides


def test_a_key_that_was_left_is_found_again_by_the_next_reload() -> None:
    current, wanted = config(), config(tempo={"limit": 100})
    first = take_over(current, wanted)
    assert take_over(first.config, wanted).left == ("tempo.limit",)


def test_what_is_taken_over_must_not_contradict_what_is_left() -> None:
    current = config(detection={"window": "10m", "max_window": "60m"})
    wanted = config(
        detection={"window": "1m", "max_window": "10m"},
        overrides=[{"match": "shop", "detection": {"max_window": "5m"}}],
    )
    assert list(contradictions(wanted)) == []
    with pytest.raises(ConfigError, match=r"need a restart.*: detection\.window, detection\.max_window") as raised:
        take_over(current, wanted)
    assert "overrides[0].detection.max_window" in raised.value.problems[0]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("detection.ratio", True),
        ("detection.errors.ratio", True),
        ("detection.errors.when", False),
        ("detection.window", False),
        ("stats.k", True),
        ("stats.max_duration", False),
        ("series.exclude", True),
        ("series.labels", False),
        ("marks", True),
        ("marks_file", False),
        ("timezone", False),
        ("tempo.url", False),
        ("polling.tempo_interval", False),
        ("storage.path", False),
        ("web.listen_address", False),
    ],
)
def test_keys(key: str, expected: bool) -> None:
    assert key in {each.dotted for each in KEYS.values()}
    assert is_reloadable(key) is expected
