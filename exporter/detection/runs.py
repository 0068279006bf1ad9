"""Evaluation by run, of series with so little traffic that hardly any window can be tested: cron jobs, say.

A series is *sparse* if on average over its latest hours with traffic it has at most 1.25 runs and 40 requests in each;
a run counts once for each quarter of an hour that it lasts.
It is evaluated by run in every hour, and not by window. A run is compared with past runs of the same hours:

- ``u``, the usual run, is the median of the past runs at the most specific fallback level that has at least eight,
- a *deviation* is the distance of a past run from the usual one of its own hour and day type, at this level or, where
  it has too few runs, at the next one: all ``n`` past runs tell how much runs vary, not only those of the same hours,
- the swing τ is the 84th percentile of the deviations (one standard deviation of a normal distribution), as a mean
  square with a prior of 0.1 octave and weight 4, times ``1 + 2/n``,
- ``d(k)`` is the longest deviation but k.

A run is *slow* if it exceeds ``max(ratio, 1 + min_delta/u, 2^(zτ), 2^d(n/100))`` times the usual run, and *far slower*
if it exceeds ``max(2, ratio, 1 + 2 min_delta/u, 2^(2zτ), 4 · 2^d(0))`` times. A series has shifted if its last two runs
were slow, or the last was far slower. A flag that fires resolves with the first run that is not slow.

If runs are exchangeable, the last two are among the k + 2 longest of n + 2 with probability
``(k + 2) (k + 1) / ((n + 2) (n + 1))``, and the last one is the longest of n + 1 with probability ``1 / (n + 1)``.

Runs are compared at marks, so that live traffic and stored history have the same.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import ceil, log2, sqrt
from typing import Final, NamedTuple, Protocol

from exporter.baseline.levels import (
    MATURE_SPAN_SECONDS,
    SLOTS,
    Baseline,
    FallbackLevel,
    FallbackRules,
    is_recurring,
)
from exporter.detection.parameters import PRIOR_SWING_OCTAVES, Parameters
from exporter.detection.tolerance import Tolerance, tolerated_run
from exporter.detection.window import MarkedBuckets, past_mark, rank_of
from exporter.model.calendar import HOUR_SECONDS, HourClock, LocalHour, Slot
from exporter.model.histogram import (
    BUCKETS_PER_OCTAVE,
    ZERO_BUCKET,
    Digest,
    bucket_of_seconds,
    bucket_upper_seconds,
)
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import SeriesHours
from exporter.model.runs import Run, runs_of
from exporter.model.series_hour import MAX_RUN_TRACES, merged_marks

MAX_RUNS_PER_HOUR: Final = 1.25
MAX_TRACES_PER_HOUR: Final = 40
"""Upper bounds for a sparse series, on average over its latest hours with traffic."""
OBSERVED_HOURS: Final = 24
"""Number of these hours."""
MIN_PAST_RUNS: Final = 8
"""A fallback level serves if it has so many past runs; with fewer at all of them, there is no verdict."""
RUN_EXPIRES_SECONDS: Final = 25 * HOUR_SECONDS
"""A run says nothing about the present any more when it is older: a daily job did not run."""
RUN_REACH_HOURS: Final = 4
"""Runs that ended in the current hour and in so many before it are compared; older ones come from the history."""

_PRIOR_WEIGHT: Final = 4.0
_SPREAD_QUANTILE: Final = 0.84
_RUNS_PER_EXCEPTION: Final = 100
_FAR_RATIO: Final = 2.0
_FAR_BUCKETS: Final = 2 * BUCKETS_PER_OCTAVE
_EARLIER_RUNS: Final = 3
"""Runs that are taken from the history: the latest two that are not parts of the same one."""
_ROUNDING: Final = 1e-9
_EVERYTHING: Final = frozenset(SLOTS)


class RunGates(NamedTuple):
    """Thresholds for the runs that ended in one hour, as buckets.

    Attributes:
        start: start of the hour, Unix seconds.
        usual: the usual run.
        slow: a run above this bucket is slow.
        far: a run above this bucket is far slower.
    """

    start: int
    usual: int
    slow: int
    far: int


class ComparedRun(NamedTuple):
    """A run and the thresholds of its hour."""

    run: Run
    gates: RunGates

    @property
    def is_slow(self) -> bool:
        """Whether it is slow."""
        return self.run.bucket > self.gates.slow

    @property
    def is_far_slower(self) -> bool:
        """Whether it is far slower."""
        return self.run.bucket > self.gates.far


class RunThresholds(NamedTuple):
    """All that the runs of a sparse series are compared with in one hour.

    Attributes:
        gates: thresholds of the hour, and of those before it, newest first.
        earlier: the latest runs that ended up to ``until``, in time order.
        until: the history is complete up to here, Unix seconds.
        past: number of past runs.
        exceptions: number of these that may be as slow as slow ones.
        swing_factor: factor by which runs normally exceed the usual one.
        longest: bucket of the longest past run at the level that serves the hour.
        baseline: the past runs at this level.
    """

    gates: tuple[RunGates, ...]
    earlier: tuple[ComparedRun, ...]
    until: int
    past: int
    exceptions: int
    swing_factor: float
    longest: int
    baseline: Baseline


class RunEvidence(NamedTuple):
    """What the last runs show.

    Attributes:
        runs: the slow runs, in time order: the last two, or the last one that is far slower.
        thresholds: what they were compared with.
        chance: probability of runs at least as long if nothing has changed.
    """

    runs: tuple[ComparedRun, ...]
    thresholds: RunThresholds
    chance: float


class RunVerdict(NamedTuple):
    """Result of comparing the last runs.

    Attributes:
        score: the last run divided by the threshold for slow runs; None without any.
        shifted: whether the last two were slow, or the last one far slower, and that ended in the current hour.
        persists: whether the last one was slow.
        evidence: what shows a shift, if there is any.
    """

    score: float | None = None
    shifted: bool = False
    persists: bool = False
    evidence: RunEvidence | None = None


class Traces(Protocol):
    """Recent traces that can be read by mark."""

    def by_mark(self, since: int, until: float) -> list[MarkedBuckets]:
        """Return the traces that ended in ``(since, until]`` by mark."""


def evaluate_runs(traces: Traces, now: float, thresholds: RunThresholds) -> RunVerdict:
    """Compare the last runs that ended up to the last mark.

    Args:
        traces: recent traces of the series; they need not reach back further than ``thresholds.until``.
        now: time of the tick, Unix seconds.
        thresholds: those of the current hour.
    """
    mark = past_mark(now)
    compared = list(thresholds.earlier)
    marked = traces.by_mark(max(thresholds.until, thresholds.gates[-1].start), mark)
    for run in runs_of(marked, thresholds.gates[0].start):
        gates = next((gates for gates in thresholds.gates if gates.start < run.end), None)
        if gates is not None:
            compared.append(ComparedRun(run, gates))
    if not compared or compared[-1].run.end < mark - RUN_EXPIRES_SECONDS:
        return RunVerdict()
    last = compared[-1]
    # Thresholds change with the hour: without a new run nothing begins.
    is_new = last.run.end >= thresholds.gates[0].start
    # A run that lasts from one hour into the next is known in two parts.
    before = next((each for each in reversed(compared) if last.run.first - each.run.end > MARK_SECONDS), None)
    score = 2.0 ** ((last.run.bucket - last.gates.slow) / BUCKETS_PER_OCTAVE)
    if not last.is_slow:
        return RunVerdict(score)
    past, exceptions = thresholds.past, thresholds.exceptions
    if before is not None and before.is_slow:
        chance = min(1.0, (exceptions + 2) * (exceptions + 1) / ((past + 2) * (past + 1)))
        evidence = RunEvidence((before, last), thresholds, chance)
    elif last.is_far_slower:
        evidence = RunEvidence((last,), thresholds, 1 / (past + 1))
    else:
        return RunVerdict(score, persists=True)
    return RunVerdict(score, shifted=is_new, persists=True, evidence=evidence)


def is_sparse(history: SeriesHours, since: int, until: int) -> bool:
    """Whether a series is evaluated by run.

    Args:
        history: hours of the series.
        since: start of the look-back, Unix seconds.
        until: hours that begin at or after this are not regarded, Unix seconds.
    """
    hours, traces = history.group(_EVERYTHING).between(since, until)
    if not hours or traces > MAX_TRACES_PER_HOUR * len(hours):
        return False
    latest = hours[-OBSERVED_HOURS:]
    runs, most = 0, MAX_RUNS_PER_HOUR * len(latest)
    for hour in reversed(latest):
        runs += hour.run_number
        if runs > most:
            # Nearly always, after a few hours.
            return False
    return sum([hour.count for hour in latest]) <= MAX_TRACES_PER_HOUR * len(latest)


class RunPrediction:
    """What the runs of a sparse series in one hour are compared with; thresholds are computed on first use.

    In most hours no run is even 1.4 times as long as usual, and nothing needs them.
    """

    __slots__ = (
        "_clock",
        "_history",
        "_hour",
        "_known_until",
        "_parameters",
        "_past",
        "_thresholds",
        "_tolerances",
        "floor",
    )

    def __init__(
        self,
        history: SeriesHours,
        hour: LocalHour,
        past: "_PastRuns",
        parameters: Parameters,
        clock: HourClock,
        known_until: int,
        tolerances: Sequence[Tolerance] = (),
    ) -> None:
        self._tolerances = tolerances
        self._history = history
        self._hour = hour
        self._past = past
        self._parameters = parameters
        self._clock = clock
        self._known_until = known_until
        self._thresholds: RunThresholds | None = None
        before = past.at(clock.hour(hour.start - 1).slot)
        here = past.at(hour.slot)
        usual = [served.usual for served in (before, here) if served is not None]
        self.floor = min([_gates(hour.start, each, parameters).slow for each in usual])

    def can_be_slow(self, traces: Traces, mark: int) -> bool:
        """Whether a run that can make the flag fire at a mark of the hour may be slow."""
        found = traces.by_mark(self._hour.start - MARK_SECONDS, mark)
        return any(max(buckets) > self.floor for _, buckets in found)

    @property
    def thresholds(self) -> RunThresholds:
        """The thresholds.

        Raises:
            DamagedDigestError: the stored history is damaged.
        """
        if self._thresholds is None:
            self._thresholds = self._compute()
        return self._thresholds

    def _compute(self) -> RunThresholds:
        past, hour, clock = self._past, self._hour, self._clock

        def gates(local_hour: LocalHour) -> RunGates | None:
            served = past.at(local_hour.slot)
            if served is None:
                return None
            spread = past.spread(served.level, self._parameters)
            found = _gates(local_hour.start, served.usual, self._parameters, spread)
            tolerated = tolerated_run(self._tolerances, local_hour)
            if tolerated is None:
                return found
            slow, far = tolerated
            return found._replace(slow=max(slow, found.slow), far=max(far, found.far))

        in_reach = [hour]
        while len(in_reach) <= RUN_REACH_HOURS:
            in_reach.append(clock.hour(in_reach[-1].start - 1))
        chosen = past.at(hour.slot)
        assert chosen is not None, "there is no prediction without"  # noqa: S101
        spread = past.spread(chosen.level, self._parameters)
        digest = Digest(Counter(chosen.buckets))
        return RunThresholds(
            gates=tuple(found for each in in_reach if (found := gates(each)) is not None),
            earlier=tuple(
                ComparedRun(run, found)
                for run in _latest_runs(self._history, self._known_until, clock)
                if (found := gates(clock.hour(run.end - 1))) is not None
            ),
            until=self._known_until,
            past=spread.runs,
            exceptions=spread.exceptions,
            swing_factor=2.0**spread.swing_octaves,
            longest=chosen.buckets[-1],
            baseline=Baseline.of_digest(digest, chosen.level, hour.slot, windows=len(chosen.buckets)),
        )


def predict_runs(
    history: SeriesHours,
    hour: LocalHour,
    rules: FallbackRules,
    parameters: Parameters,
    clock: HourClock,
    *,
    known_until: int,
    changepoint: int | None = None,
    suspects: Collection[int] = (),
    tolerances: Sequence[Tolerance] = (),
) -> RunPrediction | None:
    """Return what the runs of a series are compared with in an hour; None if it is not sparse or has too few past runs.

    Past runs are those of the hours that may be pooled: settled, neither quarantined nor suspect. The last one is left
    out.

    Args:
        history: hours of the series; must not change as long as the prediction is used.
        hour: the local hour.
        rules: which fallback levels may serve.
        parameters: settings of the detector.
        clock: maps instants to local hours.
        known_until: the history is complete up to here, Unix seconds.
        changepoint: start of the series' present behaviour, if a change was accepted.
        suspects: starts of unsettled hours that a firing flag has touched.
        tolerances: what was marked as normal.

    Raises:
        DamagedDigestError: the stored history is damaged.
    """
    since, until = max(hour.start - rules.lookback_seconds, changepoint or 0), hour.start - HOUR_SECONDS
    if not is_sparse(history, since, until):
        return None
    # The last run may be the first of two slow ones, and is not compared with itself.
    hours, _ = history.group(_EVERYTHING).between(since, hour.start)
    until = min(until, hours[-1].start)
    past = _PastRuns(history, since, until, rules, suspects)
    if past.span_seconds < MATURE_SPAN_SECONDS or past.at(hour.slot) is None:
        return None
    return RunPrediction(history, hour, past, parameters, clock, known_until, tolerances)


class _Spread(NamedTuple):
    """How far past runs lie above the usual one.

    Attributes:
        runs: number of past runs.
        swing_octaves: zτ.
        exceptions: number of past runs that may be as slow as slow ones.
        slow: longest deviation but so many, in buckets.
        longest: longest deviation, in buckets.
    """

    runs: int
    swing_octaves: float
    exceptions: int
    slow: int
    longest: int

    @classmethod
    def of(cls, deviations: Iterable[int], parameters: Parameters) -> "_Spread":
        """Compute it from at least one deviation."""
        ordered = sorted(deviations)
        runs = len(ordered)
        octaves = max(0, ordered[rank_of(_SPREAD_QUANTILE, runs) - 1]) / BUCKETS_PER_OCTAVE
        variance = (runs * octaves**2 + _PRIOR_WEIGHT * PRIOR_SWING_OCTAVES**2) / (runs + _PRIOR_WEIGHT)
        exceptions = runs // _RUNS_PER_EXCEPTION
        swing = parameters.swing * sqrt(variance) * (1 + 2 / runs)
        return cls(runs, swing, exceptions, ordered[-1 - exceptions], ordered[-1])


def _gates(start: int, usual: int, parameters: Parameters, spread: _Spread | None = None) -> RunGates:
    """Return the thresholds of an hour for its usual run; without a spread, lower bounds of them."""
    least = parameters.min_delta_seconds
    if usual == ZERO_BUCKET:
        # A usual run of zero cannot be scaled; only the absolute difference counts.
        return RunGates(start, usual, bucket_of_seconds(least), bucket_of_seconds(2 * least))
    delta = least / bucket_upper_seconds(usual)
    slow = _buckets(log2(max(parameters.ratio, 1 + delta)))
    far = _buckets(log2(max(_FAR_RATIO, parameters.ratio, 1 + 2 * delta)))
    if spread is not None:
        slow = max(slow, _buckets(spread.swing_octaves), spread.slow)
        far = max(far, _buckets(2 * spread.swing_octaves), spread.longest + _FAR_BUCKETS)
    return RunGates(start, usual, usual + slow, usual + far)


def _buckets(octaves: float) -> int:
    return ceil(BUCKETS_PER_OCTAVE * octaves - _ROUNDING)


class _Served(NamedTuple):
    """Past runs at the level that serves a slot: the median of their buckets, and all in ascending order."""

    level: FallbackLevel
    usual: int
    buckets: Sequence[int]


class _PastRuns:
    """Past runs of a series, at each fallback level of each slot."""

    def __init__(
        self, history: SeriesHours, since: int, until: int, rules: FallbackRules, suspects: Collection[int]
    ) -> None:
        self._history = history
        self._range = (since, until)
        self._rules = rules
        self._excluded = _excluded(history, since, until).union(suspects)
        self._served: dict[tuple[Slot, FallbackLevel], _Served | None] = {}
        self._of_slots: dict[frozenset[Slot], Sequence[int]] = {}
        self._spreads: dict[FallbackLevel, _Spread] = {}
        hours, _ = history.group(_EVERYTHING).between(since, until)
        self.span_seconds = hours[-1].start - hours[0].start if hours else 0

    def at(self, slot: Slot, least: FallbackLevel = FallbackLevel.EXACT) -> _Served | None:
        """Return the past runs that serve a slot, at a level or a less specific one; None where none has enough."""
        key = slot, least
        if key not in self._served:
            self._served[key] = self._choose(slot, least)
        return self._served[key]

    def spread(self, level: FallbackLevel, parameters: Parameters) -> _Spread:
        """Return how far all past runs lie above the usual ones at a level."""
        if level not in self._spreads:
            self._spreads[level] = _Spread.of(self._deviations(level), parameters)
        return self._spreads[level]

    def _deviations(self, level: FallbackLevel) -> Iterator[int]:
        for slot in SLOTS:
            buckets = self._buckets_of(frozenset([slot]))
            served = self.at(slot, level) if buckets else None
            if served is not None:
                for bucket in buckets:
                    yield bucket - served.usual

    def _choose(self, slot: Slot, least: FallbackLevel) -> _Served | None:
        for level, _, slots in self._rules.by_slot[slot]:
            if level >= least:
                buckets = self._buckets_of(slots)
                if len(buckets) >= MIN_PAST_RUNS:
                    return _Served(level, buckets[(len(buckets) - 1) // 2], buckets)
        return None

    def _buckets_of(self, slots: frozenset[Slot]) -> Sequence[int]:
        found = self._of_slots.get(slots)
        if found is None:
            hours, _ = self._history.group(slots).between(*self._range)
            found = sorted([run.bucket for hour in hours if hour.start not in self._excluded for run in hour.runs])
            self._of_slots[slots] = found
        return found


def _excluded(history: SeriesHours, since: int, until: int) -> set[int]:
    """Return the quarantined hours, except where they recur in a slot."""
    if not history.quarantined:
        return set()
    hours, _ = history.group(_EVERYTHING).between(since, until)
    total = Counter([hour.slot for hour in hours])
    quarantined = Counter([hour.slot for hour in hours if hour.is_quarantined])
    recurring = {slot for slot, number in quarantined.items() if is_recurring(number, total[slot] - number)}
    return {hour.start for hour in hours if hour.is_quarantined and hour.slot not in recurring}


def _latest_runs(history: SeriesHours, until: int, clock: HourClock) -> Sequence[Run]:
    """Return the latest runs that ended up to an instant, in time order."""
    hours, _ = history.group(_EVERYTHING).between(0, until)
    latest = hours[-_EARLIER_RUNS - 1 :]
    if any(hour.count > MAX_RUN_TRACES for hour in latest):
        runs = [run for hour in latest for run in hour.runs if run.end <= until]
    else:
        marked = [(mark, buckets) for mark, buckets in merged_marks(latest) if mark <= until]
        runs = runs_of(marked, clock.hour(until - 1).start)
    return runs[-_EARLIER_RUNS:]
