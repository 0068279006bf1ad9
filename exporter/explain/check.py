"""One question about one endpoint: what is usual for it at an instant, is this duration an outlier, has it shifted."""

from dataclasses import dataclass

from exporter.evaluation.query import BaselineQuerier, BaselineReport
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.histogram import bucket_of_seconds
from exporter.model.span import SeriesKey


@dataclass(frozen=True, slots=True)
class DurationVerdict:
    """What is to be said about one duration.

    Attributes:
        seconds: the duration.
        outlier: whether it is above the threshold; absent without a baseline.
        threshold_ratio: the duration over the threshold; absent without a baseline, or where the threshold is 0.
        p50_ratio: the duration over the usual median; likewise.
        p95_ratio: the duration over the usual 95th percentile; likewise.
        slower_traces: how many of the pooled traces certainly took longer; absent without a baseline.
    """

    seconds: float
    outlier: bool | None = None
    threshold_ratio: float | None = None
    p50_ratio: float | None = None
    p95_ratio: float | None = None
    slower_traces: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """The answer.

    Attributes:
        usual: what is usual in the hour that is asked about.
        at: the instant that is asked about, Unix seconds.
        present: whether that is now.
        duration: the verdict on a duration, where one was asked about.
        status: what is known of the series at the live edge; absent where another time is asked about, or nobody
            watches.
    """

    usual: BaselineReport
    at: float
    present: bool
    duration: DurationVerdict | None = None
    status: SeriesStatus | None = None


def check(
    inquiry: BaselineQuerier,
    key: SeriesKey,
    *,
    now: float,
    at: float | None = None,
    duration_seconds: float | None = None,
    status: SeriesStatus | None = None,
) -> Check:
    """Answer a question.

    Args:
        inquiry: the history.
        key: the series.
        now: the present, Unix seconds.
        at: the instant that is asked about; the present where it is absent.
        duration_seconds: a duration to judge.
        status: what is known of the series at the live edge; it counts where the present is asked about.

    Raises:
        StoreError: the database cannot be read.
        DamagedDigestError: what is stored of the series is damaged.
    """
    instant = now if at is None else at
    present = instant == now
    usual = inquiry.report(key, int(instant), int(now))
    return Check(
        usual=usual,
        at=instant,
        present=present,
        duration=None if duration_seconds is None else verdict_on(duration_seconds, usual),
        status=status if present else None,
    )


def verdict_on(seconds: float, usual: BaselineReport) -> DurationVerdict:
    """Whether a duration is an outlier, and by how much."""
    baseline, threshold = usual.baseline, usual.outlier_threshold_seconds
    if baseline is None or threshold is None or usual.digest is None:
        return DurationVerdict(seconds)
    return DurationVerdict(
        seconds=seconds,
        outlier=seconds > threshold,
        threshold_ratio=_ratio(seconds, threshold),
        p50_ratio=_ratio(seconds, baseline.p50_seconds),
        p95_ratio=_ratio(seconds, baseline.p95_seconds),
        slower_traces=usual.digest.count_above(bucket_of_seconds(seconds)),
    )


def _ratio(seconds: float, other: float) -> float | None:
    return seconds / other if other > 0 else None
