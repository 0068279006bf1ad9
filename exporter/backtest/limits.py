"""The settings of each kind of flag that a budget may raise, and the ladders of their values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from math import ceil, floor
from typing import Final, NamedTuple

from exporter.backtest.replay import FiringPeriod
from exporter.config.units import format_duration
from exporter.detection.detector import Detector
from exporter.detection.errors.verdict import ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import SMALL_SHIFT_RATIO, Parameters
from exporter.detection.small_shift import ShiftTest
from exporter.model.span import SeriesKey

STEP: Final = 2 ** (1 / 8)
"""From one step of a ladder to the next, the ratio grows by this factor."""
_DELTA_STEP: Final = 2**0.5
"""Factor by which the minimum difference of all endpoints grows with each step."""
_MIN_DELTA_SECONDS: Final = 0.001
"""The resolution of durations in the configuration."""
_MAX_ERROR_DELTA: Final = 0.9
_MIN_DROP: Final = 0.001

Changes = Mapping[str, float | str]
"""Settings by their key under ``detection``, as the configuration has them."""


class Limits(NamedTuple):
    """The limits of latency shifts."""

    ratio: float
    min_delta_seconds: float

    @classmethod
    def of(cls, parameters: Parameters) -> "Limits":
        """Return those of an endpoint."""
        return cls(parameters.ratio, parameters.min_delta_seconds)

    @property
    def kind(self) -> FlagKind:
        """The flag that they limit."""
        return FlagKind.SHIFT

    def raised(self, step: int, episodes: Sequence[Sequence[FiringPeriod]], first: "Limits") -> "Limits":
        """Return the limits of the next step of one endpoint's ladder.

        The ratio does not affect the tests for small shifts, so the minimum difference grows if these raise a flag.

        Args:
            step: number of the next step.
            episodes: episodes that the present limits leave.
            first: limits before the first step.
        """
        factor = STEP**step
        ratio, delta = self
        for episode in episodes:
            explanation = episode[0].explanation
            if not isinstance(explanation, Explanation):
                ratio = _rounded_up(first.ratio * factor)
            elif explanation.baseline_seconds <= 0:
                delta = max(delta, max(first.min_delta_seconds, _MIN_DELTA_SECONDS) * factor)
            elif explanation.test in (ShiftTest.LONG, ShiftTest.LEVEL):
                delta = max(delta, (SMALL_SHIFT_RATIO * factor - 1) * explanation.baseline_seconds)
            else:
                ratio = _rounded_up(first.ratio * factor)
        return Limits(max(self.ratio, ratio), _whole_milliseconds(delta))

    def scaled(self, step: int) -> "Limits":
        """Return the limits of a step of the ladder that is common to all endpoints."""
        if not step:
            return self
        delta = max(self.min_delta_seconds, _MIN_DELTA_SECONDS) * _DELTA_STEP**step
        return Limits(_rounded_up(self.ratio * STEP**step), _whole_milliseconds(delta))

    def with_common(self, common: "Limits", overridden: Collection[str]) -> "Limits":
        """Return the limits of an endpoint under those of all endpoints, where overrides do not decide them."""
        return Limits(
            self.ratio if "ratio" in overridden else common.ratio,
            self.min_delta_seconds if "min_delta" in overridden else common.min_delta_seconds,
        )

    def applied(self, parameters: Parameters) -> Parameters:
        """Return the settings of an endpoint with these limits."""
        return replace(parameters, ratio=self.ratio, min_delta_seconds=self.min_delta_seconds)

    def values(self) -> Changes:
        """Return the settings."""
        return {
            "ratio": self.ratio,
            "min_delta": format_duration(timedelta(seconds=self.min_delta_seconds)),
        }


class ErrorLimits(NamedTuple):
    """The limits of error shifts."""

    ratio: float
    min_delta: float

    @classmethod
    def of(cls, parameters: Parameters) -> "ErrorLimits":
        """Return those of an endpoint."""
        return cls(parameters.errors_ratio, parameters.errors_min_delta)

    @property
    def kind(self) -> FlagKind:
        """The flag that they limit."""
        return FlagKind.ERRORS

    def raised(self, step: int, episodes: Sequence[Sequence[FiringPeriod]], first: "ErrorLimits") -> "ErrorLimits":
        """Return the limits of the next step of one endpoint's ladder: what decides the limit of an episode is raised.

        Args:
            step: number of the next step.
            episodes: episodes that the present limits leave.
            first: limits before the first step.
        """
        factor = STEP**step
        ratio, delta = self
        for episode in episodes:
            explanation = episode[0].explanation
            is_rare = isinstance(explanation, ErrorExplanation) and (ratio - 1) * explanation.usual_ratio < delta
            if is_rare:
                delta = max(delta, _rounded_up(first.min_delta * factor, 4))
            else:
                ratio = max(ratio, _rounded_up(first.ratio * factor))
        return ErrorLimits(ratio, min(delta, max(_MAX_ERROR_DELTA, first.min_delta)))

    def scaled(self, step: int) -> "ErrorLimits":
        """Return the limits of a step of the ladder that is common to all endpoints."""
        if not step:
            return self
        delta = min(_rounded_up(self.min_delta * STEP**step, 4), max(_MAX_ERROR_DELTA, self.min_delta))
        return ErrorLimits(_rounded_up(self.ratio * STEP**step), delta)

    def with_common(self, common: "ErrorLimits", overridden: Collection[str]) -> "ErrorLimits":
        """Return the limits of an endpoint under those of all endpoints, where overrides do not decide them."""
        return ErrorLimits(
            self.ratio if "errors.ratio" in overridden else common.ratio,
            self.min_delta if "errors.min_delta" in overridden else common.min_delta,
        )

    def applied(self, parameters: Parameters) -> Parameters:
        """Return the settings of an endpoint with these limits."""
        return replace(parameters, errors_ratio=self.ratio, errors_min_delta=self.min_delta)

    def values(self) -> Changes:
        """Return the settings."""
        return {"errors.ratio": self.ratio, "errors.min_delta": self.min_delta}


class TrafficLimits(NamedTuple):
    """The limit of drops of traffic."""

    drop: float

    @classmethod
    def of(cls, parameters: Parameters) -> "TrafficLimits":
        """Return that of an endpoint."""
        return cls(parameters.traffic_drop)

    @property
    def kind(self) -> FlagKind:
        """The flag that it limits."""
        return FlagKind.TRAFFIC

    def raised(
        self,
        step: int,
        episodes: Sequence[Sequence[FiringPeriod]],  # noqa: ARG002 - the same for each kind
        first: "TrafficLimits",
    ) -> "TrafficLimits":
        """Return the limit of the next step of one endpoint's ladder."""
        return first.scaled(step)

    def scaled(self, step: int) -> "TrafficLimits":
        """Return the limit of a step of a ladder."""
        lower = floor(round(self.drop / STEP**step * 1000, 6)) / 1000
        return TrafficLimits(max(min(self.drop, _MIN_DROP), lower)) if step else self

    def with_common(self, common: "TrafficLimits", overridden: Collection[str]) -> "TrafficLimits":
        """Return the limit of an endpoint under that of all endpoints, where overrides do not decide it."""
        return self if "traffic.drop" in overridden else common

    def applied(self, parameters: Parameters) -> Parameters:
        """Return the settings of an endpoint with this limit."""
        return replace(parameters, traffic_drop=self.drop)

    def values(self) -> Changes:
        """Return the setting."""
        return {"traffic.drop": self.drop}


AnyLimits = Limits | ErrorLimits | TrafficLimits


def tuned(limits: AnyLimits, detector: Detector, key: SeriesKey) -> Detector:
    """Return the detector of an endpoint with some limits."""
    own = detector.of(key)
    return replace(own, parameters=limits.applied(own.parameters), policies=None)


def nested(changes: Changes) -> dict[str, float | str | dict[str, float | str]]:
    """Return settings as ``detection`` in the configuration has them."""
    found: dict[str, float | str | dict[str, float | str]] = {}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if section:
            inner = found.setdefault(section, {})
            if isinstance(inner, dict):
                inner[name] = value
        else:
            found[key] = value
    return found


def _rounded_up(value: float, digits: int = 2) -> float:
    scale = float(10**digits)
    return ceil(round(value * scale, 6)) / scale


def _whole_milliseconds(seconds: float) -> float:
    return ceil(round(seconds * 1000, 6)) / 1000
