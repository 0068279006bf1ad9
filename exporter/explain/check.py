"""Checks an endpoint at an instant: its baseline, whether a duration is an outlier, whether the latency has shifted."""

from dataclasses import dataclass
from typing import Protocol

from exporter.evaluation.query import BaselineReport
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.histogram import bucket_of_seconds
from exporter.model.span import SeriesKey


class BaselineReports(Protocol):
    """Queries of the stored history; raises StoreError or DamagedDigestError if it cannot be read."""

    def report(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        """Return the baseline of a series for the hour of an instant."""


@dataclass(frozen=True, slots=True)
class DurationVerdict:
    """Comparison of one duration with the baseline. All but the duration are absent without a baseline.

    Attributes:
        seconds: the duration.
        is_outlier: whether it exceeds the outlier threshold.
        threshold_ratio: duration divided by threshold; absent if the threshold is 0.
        p50_ratio: duration divided by the baseline median; absent if that is 0.
        p95_ratio: duration divided by the baseline 95th percentile; absent if that is 0.
        slower_traces: pooled traces that certainly took longer.
    """

    seconds: float
    is_outlier: bool | None = None
    threshold_ratio: float | None = None
    p50_ratio: float | None = None
    p95_ratio: float | None = None
    slower_traces: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Result of checking an endpoint.

    Attributes:
        report: the baseline for the hour of the instant.
        at: the instant, Unix seconds.
        is_present: whether the instant is now.
        duration: verdict on a duration, if one was given.
        status: status of the series at the live edge; absent for another time, or if no exporter is running.
    """

    report: BaselineReport
    at: float
    is_present: bool
    duration: DurationVerdict | None = None
    status: SeriesStatus | None = None


def check(
    querier: BaselineReports,
    key: SeriesKey,
    *,
    now: float,
    at: float | None = None,
    duration_seconds: float | None = None,
    status: SeriesStatus | None = None,
) -> Check:
    """Check an endpoint.

    Args:
        querier: queries the stored history.
        key: the series.
        now: the present, Unix seconds.
        at: the instant to check; now if absent.
        duration_seconds: a duration to compare with the baseline.
        status: status of the series at the live edge; ignored for another instant than now.

    Raises:
        StoreError: the database cannot be read.
        DamagedDigestError: the stored history of the series is damaged.
    """
    instant = now if at is None else at
    is_present = instant == now
    report = querier.report(key, int(instant), int(now))
    return Check(
        report=report,
        at=instant,
        is_present=is_present,
        duration=None if duration_seconds is None else evaluate_duration(duration_seconds, report),
        status=status if is_present else None,
    )


def evaluate_duration(seconds: float, report: BaselineReport) -> DurationVerdict:
    """Compare a duration with a baseline."""
    baseline, threshold = report.baseline, report.outlier_threshold_seconds
    if baseline is None or threshold is None or report.digest is None:
        return DurationVerdict(seconds)
    return DurationVerdict(
        seconds=seconds,
        is_outlier=seconds > threshold,
        threshold_ratio=_ratio(seconds, threshold),
        p50_ratio=_ratio(seconds, baseline.p50_seconds),
        p95_ratio=_ratio(seconds, baseline.p95_seconds),
        slower_traces=report.digest.count_above(bucket_of_seconds(seconds)),
    )


def _ratio(seconds: float, other: float) -> float | None:
    return seconds / other if other > 0 else None
