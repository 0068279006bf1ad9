"""Runs a backtest: reads the traffic, replays it and builds the report."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, TextIO, TypeVar

from exporter.app.marks import marks_for_command
from exporter.app.settings import evaluation_settings, label_names
from exporter.backtest.budget import Budget, Endpoint, Proposal, counted_episodes, propose
from exporter.backtest.labels import Label, read_labels
from exporter.backtest.limits import ErrorLimits, Limits, TrafficLimits, tuned
from exporter.backtest.recorded_traffic import RecordedTraffic
from exporter.backtest.replay import SeriesReplay, replay_history, replay_requests, series_name
from exporter.backtest.report import BacktestReport
from exporter.backtest.traffic import COLUMNS, key_of, read_traffic
from exporter.config import Config, ConfigError, build_calendar
from exporter.config.units import format_duration
from exporter.config.wording import hint
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import Parameters
from exporter.detection.traffic.source import SourceHistory
from exporter.evaluation.stored_source import read_whole_source
from exporter.model.calendar import HourClock
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.label import LabelNames
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import bar, printable, progress_line
from exporter.store import MissingDatabaseError, Store

DEFAULT_CSV_LEARN_SECONDS: Final = 7 * 86_400
_MAX_TIME: Final = 2**62
_SERIES_AT_ONCE: Final = 25
"""Series held in memory at a time; their complete histories are large."""


class NothingToReplayError(Exception):
    """There is no traffic to replay; the message says what to do."""


@dataclass(frozen=True, slots=True)
class BacktestOptions:
    """Options of a backtest.

    Attributes:
        csv: file with recorded traffic; None replays the stored history.
        labels: file with labelled incidents.
        learn_seconds: learning period of each series; the default depends on the source.
        service: replay only stored series of this service.
        span: replay only stored series with this span name.
        series_labels: replay only stored series with these labels, name and value; an empty one must be absent.
        settings: overrides of this run, ``key=value`` each, for the report; the configuration includes them.
        budget: flags to keep to; None proposes no settings.
    """

    csv: Path | None = None
    labels: Path | None = None
    learn_seconds: int | None = None
    service: str | None = None
    span: str | None = None
    series_labels: Sequence[tuple[str, str]] = ()
    settings: Sequence[str] = ()
    budget: Budget | None = None


class _ProgressText:
    """Text of the progress line."""

    def __init__(self) -> None:
        self._text = "reading"

    def reading(self, path: Path, rows: int) -> None:
        self._text = f"reading {printable(path.name)}  {rows:,} rows"

    def replaying(self, position: int, series: int) -> None:
        self._text = f"replaying {bar(position / series)}  {position:,} of {series:,} series"

    def proposing(self, position: int, series: int) -> None:
        self._text = f"trying other settings {bar(position / series)}  {position:,} of {series:,} series"

    def __str__(self) -> str:
        return self._text


def backtest(config: Config, options: BacktestOptions, warn: Callable[[str], None], progress: TextIO) -> BacktestReport:
    """Replay recorded traffic or the stored history. Writes nothing.

    Args:
        config: the configuration; ``storage.path`` is the history.
        options: what to replay.
        warn: called with a message about what was left out.
        progress: stream for the progress line, which is shown only on a terminal.

    Raises:
        NothingToReplayError: there is no traffic.
        TrafficError: the traffic cannot be read.
        LabelsError: the labels cannot be read.
        StoreError: the history cannot be read.
        DatabaseTooNewError: a newer exporter wrote the history.
        DatabaseTooOldError: an older exporter wrote the history.
    """
    labels = None if options.labels is None else read_labels(options.labels)
    progress_text = _ProgressText()
    with progress_line(lambda: str(progress_text), progress):
        if options.csv is None:
            return _replay_history(config, options, labels, progress_text)
        return _replay_csv(config, options, options.csv, labels, warn, progress_text)


def _replay_history(
    config: Config, options: BacktestOptions, labels: Sequence[Label] | None, progress_text: _ProgressText
) -> BacktestReport:
    path = config.storage.path
    try:
        store = Store.open_readonly(path)
    except MissingDatabaseError as error:
        raise NothingToReplayError(f"{error}; or replay a file with --csv") from error
    with closing(store):
        stored_keys = store.series()
        until = max((entry.window.end for entry in store.ledger(0, _MAX_TIME) if entry.stored), default=None)
        if not stored_keys or until is None:
            raise NothingToReplayError(
                f"the history in {path} is empty: run the exporter until it has read some, or replay a file with --csv"
            )
        keys = _selected(stored_keys, options, label_names(config))
        detector = _build_detector(config, store)
        source = read_whole_source(store, detector, until)
        replays, damaged = _replay_stored(store, keys, until, detector, options.learn_seconds, source, progress_text)

        def replay_again(key: SeriesKey, other: Detector, kind: FlagKind) -> SeriesReplay:
            (stored,) = store.history([key], 0, until, marks_from=0)
            return replay_history(
                stored, other, until, options.learn_seconds, source if kind is FlagKind.TRAFFIC else None
            )

        by_name = {key.text: key for key in keys}
        proposals = _propose(
            options.budget, [(by_name[r.series], r) for r in replays], detector, labels, replay_again, progress_text
        )
    if not replays:
        reason = ": the stored history is damaged" if damaged else ""
        raise NothingToReplayError(f"no series in {path} can be replayed{reason}")
    return BacktestReport(
        kind="history",
        path=path,
        calendar=build_calendar(config),
        settings=options.settings,
        learn_seconds=options.learn_seconds,
        replays=sorted(replays, key=lambda replay: replay.series),
        damaged=sorted(damaged),
        labels=labels,
        proposals=proposals,
    )


def _propose(
    budget: Budget | None,
    replays: Sequence[tuple[SeriesKey, SeriesReplay]],
    detector: Detector,
    labels: Sequence[Label] | None,
    replay_again: Callable[[SeriesKey, Detector, FlagKind], SeriesReplay],
    progress_text: _ProgressText,
) -> list[Proposal]:
    """Propose settings that keep to a budget, if there is one: for each kind of flag by itself.

    Args:
        budget: the budget.
        replays: replays with the present settings.
        detector: the detector with the present settings.
        labels: labelled incidents.
        replay_again: replays a series with another detector, for the flags of a kind.
        progress_text: shows the progress.
    """
    if budget is None or not replays:
        return []
    task = _ProposalTask(budget, replays, detector, labels or (), replay_again, progress_text)
    return [task.propose(Limits.of), task.propose(ErrorLimits.of), task.propose(TrafficLimits.of)]


_L = TypeVar("_L", Limits, ErrorLimits, TrafficLimits)


@dataclass(frozen=True, slots=True)
class _ProposalTask:
    """What settings are proposed from; see :func:`_propose`."""

    budget: Budget
    replays: Sequence[tuple[SeriesKey, SeriesReplay]]
    detector: Detector
    labels: Sequence[Label]
    replay_again: Callable[[SeriesKey, Detector, FlagKind], SeriesReplay]
    progress_text: _ProgressText

    def _replay_with(self, key: SeriesKey, limits: Limits | ErrorLimits | TrafficLimits) -> SeriesReplay:
        return self.replay_again(key, tuned(limits, self.detector, key), limits.kind)

    def propose(self, limits_of: Callable[[Parameters], _L]) -> Proposal:
        base = limits_of(self.detector.parameters)
        endpoints: list[Endpoint[_L]] = []
        for key, replay in self.replays:
            of_series = [label for label in self.labels if label.series == replay.series]
            if not counted_episodes(replay, of_series, base.kind):
                continue
            policy = None if self.detector.policies is None else self.detector.policies.of(key)

            endpoints.append(
                Endpoint(
                    key=key,
                    replay=replay,
                    present=limits_of(self.detector.of(key).parameters),
                    overridden=frozenset(applied.key for applied in policy.applied) if policy else frozenset(),
                    labels=of_series,
                    replay_with=partial(self._replay_with, key),
                )
            )
        replays = [replay for _, replay in self.replays]
        return propose(self.budget, endpoints, base, replays, self.progress_text.proposing)


def _replay_stored(
    store: Store,
    keys: Sequence[SeriesKey],
    until: int,
    detector: Detector,
    learn_seconds: int | None,
    source: SourceHistory,
    progress_text: _ProgressText,
) -> tuple[list[SeriesReplay], list[str]]:
    """Replay stored series; also return the names of those whose history is damaged."""
    replays: list[SeriesReplay] = []
    damaged: list[str] = []
    for position, stored in enumerate(store.history(keys, 0, until, marks_from=0, at_once=_SERIES_AT_ONCE)):
        progress_text.replaying(position, len(keys))
        if not any(window.traces for window in stored.windows):
            continue
        try:
            replays.append(replay_history(stored, detector, until, learn_seconds, source))
        except DamagedDigestError:
            damaged.append(series_name(stored))
    return replays, damaged


def _selected(stored_keys: Sequence[SeriesKey], options: BacktestOptions, label_names: LabelNames) -> list[SeriesKey]:
    """Return the series that the options select by their names, as a whole or as labels have them."""
    keys = list(stored_keys)
    if options.service is not None:
        _require_known(options.service, label_names.all_names(key.service_name for key in keys), "service")
        keys = [key for key in keys if label_names.is_name(key.service_name, options.service)]
    if options.span is not None:
        _require_known(options.span, label_names.all_names(key.span_name for key in keys), "span")
        keys = [key for key in keys if label_names.is_name(key.span_name, options.span)]
    for name, value in options.series_labels:
        _require_known(value, {"", *label_names.all_names(dict(key.labels).get(name, "") for key in keys)}, name)
        keys = [key for key in keys if label_names.has_labels(key, [(name, value)])]
    return keys


def _require_known(name: str, known_names: Collection[str], what: str) -> None:
    if name not in known_names:
        suggestion = hint(name, map(printable, known_names))
        raise NothingToReplayError(f"no series with the {what} {name!r} is stored{suggestion}")


def _replay_csv(
    config: Config,
    options: BacktestOptions,
    path: Path,
    labels: Sequence[Label] | None,
    warn: Callable[[str], None],
    progress_text: _ProgressText,
) -> BacktestReport:
    learn_seconds = DEFAULT_CSV_LEARN_SECONDS if options.learn_seconds is None else options.learn_seconds
    traffic = read_traffic(path, lambda rows: progress_text.reading(path, rows))
    if message := traffic.bad_rows_message(path):
        warn(message)
    if not traffic.series:
        raise NothingToReplayError(
            f"{path} has no valid row: after the header {','.join(COLUMNS)}, each row must be one request"
        )
    detector = _build_detector(config)
    recorded = RecordedTraffic(traffic.series, detector)
    replays: list[SeriesReplay] = []
    for name, requests in sorted(traffic.series.items()):
        progress_text.replaying(len(replays), len(traffic.series))
        replays.append(replay_requests(name, requests, detector, learn_seconds, recorded))

    def replay_again(key: SeriesKey, other: Detector, kind: FlagKind) -> SeriesReplay:
        name = names[key]
        return replay_requests(
            name, traffic.series[name], other, learn_seconds, recorded if kind is FlagKind.TRAFFIC else None
        )

    names = {key_of(replay.series): replay.series for replay in replays}
    judged = [(key_of(replay.series), replay) for replay in replays if replay.end > replay.learned_until]
    report = BacktestReport(
        kind="csv",
        path=path,
        calendar=build_calendar(config),
        settings=options.settings,
        learn_seconds=learn_seconds,
        replays=replays,
        rows=traffic.rows,
        bad_rows=traffic.bad_rows,
        labels=labels,
        proposals=_propose(options.budget, judged, detector, labels, replay_again, progress_text),
    )
    if not report.series_days():
        longest = max(replay.end - replay.start for replay in report.replays)
        raise NothingToReplayError(
            f"no series in {path} is longer than the learning period of {_duration_text(learn_seconds)} (the longest "
            f"is {_duration_text(longest)}): set a shorter one with --learn"
        )
    return report


def _build_detector(config: Config, store: Store | None = None) -> Detector:
    """Build the detector from the configuration, with the marks of it and of the history."""
    detector = evaluation_settings(config).detector(HourClock(build_calendar(config)))
    try:
        return replace(detector, marks=marks_for_command(config, store))
    except ConfigError as error:
        raise NothingToReplayError(str(error)) from error


def _duration_text(seconds: int) -> str:
    return format_duration(timedelta(seconds=seconds))
