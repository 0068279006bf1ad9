import logging
from collections.abc import Callable
from typing import Any

import pytest

from exporter.app.config_reload import ConfigReloader, ReloadError
from exporter.config import Config, ConfigError
from exporter.runtime.logs import get_logger
from tests.support.samples import Clock, events


class Bench:
    """A reloader with a configuration that a test changes."""

    def __init__(self, **sections: Any) -> None:
        self.clock = Clock()
        self.load: Callable[[], Config] = lambda: Config.model_validate(sections)
        self.applied: list[Config] = []
        self.apply: Callable[[Config], None] = self.applied.append
        self.reloader = ConfigReloader(
            self.load(), self._load_now, self._apply_now, get_logger("test"), clock=self.clock
        )

    def _load_now(self) -> Config:
        return self.load()

    def _apply_now(self, config: Config) -> None:
        self.apply(config)

    def change(self, **sections: Any) -> None:
        self.load = lambda: Config.model_validate(sections)


def test_changes_are_applied_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    began = bench.reloader.status.succeeded_at
    bench.change(detection={"ratio": 3}, tempo={"limit": 100})
    bench.clock.now += 60
    result = bench.reloader.reload()
    assert str(result) == (
        "the configuration was reloaded; in use now: detection.ratio; changed, but only a restart takes them over: "
        "tempo.limit"
    )
    assert [config.detection.ratio for config in bench.applied] == [3]
    assert bench.reloader.status.succeeded_at == began + 60
    assert events(caplog) == ["config_reloaded", "config_needs_restart"]


def test_without_changes_nothing_is_applied() -> None:
    bench = Bench()
    assert str(bench.reloader.reload()) == "the configuration has not changed"
    assert bench.applied == []


def test_an_invalid_configuration_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    began = bench.reloader.status.succeeded_at

    def fail() -> Config:
        raise ConfigError(["detection.ratio must be at least 1"])

    bench.load = fail
    bench.clock.now += 60
    with pytest.raises(ReloadError, match=r"detection\.ratio must be at least 1"):
        bench.reloader.reload()
    assert bench.applied == []
    assert not bench.reloader.status.successful
    assert bench.reloader.status.succeeded_at == began
    assert events(caplog) == ["config_invalid"]
    bench.change(detection={"ratio": 3})
    bench.reloader.reload()
    assert bench.reloader.status.successful


def test_what_could_not_be_applied_is_tried_again() -> None:
    bench = Bench()

    def fail(_: Config) -> None:
        raise OSError("the disk is full")

    applied, bench.apply = bench.apply, fail
    bench.change(detection={"ratio": 3})
    with pytest.raises(ReloadError, match="the disk is full"):
        bench.reloader.reload()
    bench.apply = applied
    assert bench.reloader.reload().taken == ("detection.ratio",)
