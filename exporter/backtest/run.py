"""Runs a backtest from beginning to end: reads the traffic, replays it, and puts together what was found."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, TextIO

from exporter.app.settings import evaluation_settings
from exporter.backtest.labels import Label, read_labels
from exporter.backtest.replay import SeriesReplay, name_of, replay_history, replay_requests
from exporter.backtest.report import BacktestReport
from exporter.backtest.traffic import COLUMNS, read_traffic
from exporter.config import Config, build_calendar
from exporter.config.units import format_duration
from exporter.config.wording import hint
from exporter.detection.detector import Detector
from exporter.model.calendar import HourClock
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import bar, printable, progress_line
from exporter.store import MissingDatabaseError, Store

DEFAULT_CSV_LEARN_SECONDS: Final = 7 * 86_400
_FOR_EVER: Final = 2**62
_SERIES_AT_ONCE: Final = 25
"""Whole histories are large: so many are in memory at a time."""


class NothingToReplayError(Exception):
    """There is no traffic to replay; the message says what to do."""


@dataclass(frozen=True, slots=True)
class BacktestOptions:
    """What is to be replayed, and how.

    Attributes:
        csv: recorded traffic to replay instead of the stored history.
        labels: a file with what is to be found.
        learn_seconds: how much of each series is for learning; the default depends on the source.
        service: only stored series of this service.
        span: only stored series of this span name.
        settings: what was set for this run, ``key=value`` each; it stands in the configuration already.
    """

    csv: Path | None = None
    labels: Path | None = None
    learn_seconds: int | None = None
    service: str | None = None
    span: str | None = None
    settings: Sequence[str] = ()


class _Progress:
    """How far a backtest has come, as a line."""

    def __init__(self) -> None:
        self._text = "reading"

    def reading(self, path: Path, rows: int) -> None:
        self._text = f"reading {printable(path.name)}  {rows:,} rows"

    def replaying(self, done: int, series: int) -> None:
        self._text = f"replaying {bar(done / series)}  {done:,} of {series:,} series"

    def __str__(self) -> str:
        return self._text


def backtest(config: Config, options: BacktestOptions, warn: Callable[[str], None], progress: TextIO) -> BacktestReport:
    """Replay recorded traffic or the stored history; nothing is written anywhere.

    Args:
        config: the configuration; its storage says where the history is.
        options: what to replay.
        warn: is told what was left out.
        progress: where to show how far it has come, if that is a terminal.

    Raises:
        NothingToReplayError: there is no traffic.
        TrafficError: the traffic cannot be read.
        LabelsError: the labels cannot be read.
        StoreError: the history cannot be read.
        DatabaseTooNewError: a newer exporter wrote the history.
        DatabaseTooOldError: an older exporter wrote the history.
    """
    labels = None if options.labels is None else read_labels(options.labels)
    shown = _Progress()
    with progress_line(lambda: str(shown), progress):
        if options.csv is None:
            return _replay_history(config, options, labels, shown)
        return _replay_csv(config, options, options.csv, labels, warn, shown)


def _replay_history(
    config: Config, options: BacktestOptions, labels: Sequence[Label] | None, shown: _Progress
) -> BacktestReport:
    path = config.storage.path
    try:
        opened = Store.open_readonly(path)
    except MissingDatabaseError as error:
        raise NothingToReplayError(f"{error}; or replay a file with --csv") from error
    with closing(opened) as store:
        known = store.series()
        until = max((entry.window.end for entry in store.ledger(0, _FOR_EVER) if entry.stored), default=None)
        if not known or until is None:
            raise NothingToReplayError(
                f"the history in {path} is still empty: let the exporter read some, or replay a file with --csv"
            )
        keys = _selected(known, options)
        replays, damaged = _replay_stored(store, keys, until, _detector(config), options.learn_seconds, shown)
    if not replays:
        reason = ": what is stored of it is damaged" if damaged else ""
        raise NothingToReplayError(f"no series in {path} has a history that can be replayed{reason}")
    return BacktestReport(
        kind="history",
        path=path,
        calendar=build_calendar(config),
        settings=options.settings,
        learn_seconds=options.learn_seconds,
        replays=sorted(replays, key=lambda replay: replay.series),
        damaged=sorted(damaged),
        labels=labels,
    )


def _replay_stored(
    store: Store,
    keys: Sequence[SeriesKey],
    until: int,
    detector: Detector,
    learn_seconds: int | None,
    shown: _Progress,
) -> tuple[list[SeriesReplay], list[str]]:
    """The replays of stored series, and the names of those whose stored bytes are damaged."""
    replays: list[SeriesReplay] = []
    damaged: list[str] = []
    for done, stored in enumerate(store.history(keys, 0, until, marks_from=0, at_once=_SERIES_AT_ONCE)):
        shown.replaying(done, len(keys))
        if not any(window.traces for window in stored.windows):
            continue
        try:
            replays.append(replay_history(stored, detector, until, learn_seconds))
        except DamagedDigestError:
            damaged.append(name_of(stored))
    return replays, damaged


def _selected(known: Sequence[SeriesKey], options: BacktestOptions) -> list[SeriesKey]:
    """The series that are asked for."""
    keys = list(known)
    if options.service is not None:
        _demand(options.service, {key.service_name for key in keys}, "service")
        keys = [key for key in keys if key.service_name == options.service]
    if options.span is not None:
        _demand(options.span, {key.span_name for key in keys}, "span")
        keys = [key for key in keys if key.span_name == options.span]
    return keys


def _demand(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        meant = hint(name, map(printable, known))
        raise NothingToReplayError(f"no series with the {what} {name!r} is stored{meant}")


def _replay_csv(
    config: Config,
    options: BacktestOptions,
    path: Path,
    labels: Sequence[Label] | None,
    warn: Callable[[str], None],
    shown: _Progress,
) -> BacktestReport:
    learn_seconds = DEFAULT_CSV_LEARN_SECONDS if options.learn_seconds is None else options.learn_seconds
    traffic = read_traffic(path, lambda rows: shown.reading(path, rows))
    if message := traffic.bad_rows_message(path):
        warn(message)
    if not traffic.series:
        raise NothingToReplayError(
            f"{path} has no row that can be used: below the header {','.join(COLUMNS)}, each row must be one request"
        )
    detector = _detector(config)
    replays: list[SeriesReplay] = []
    for name, requests in sorted(traffic.series.items()):
        shown.replaying(len(replays), len(traffic.series))
        replays.append(replay_requests(name, requests, detector, learn_seconds))
    report = BacktestReport(
        kind="csv",
        path=path,
        calendar=build_calendar(config),
        settings=options.settings,
        learn_seconds=learn_seconds,
        replays=replays,
        rows=traffic.rows,
        bad_rows=traffic.bad,
        labels=labels,
    )
    if not report.series_days():
        longest = max(replay.end - replay.start for replay in report.replays)
        raise NothingToReplayError(
            f"no series in {path} is longer than the learning period of {_written(learn_seconds)} (the longest is "
            f"{_written(longest)}): give a shorter one with --learn"
        )
    return report


def _detector(config: Config) -> Detector:
    """The detector that the configuration asks for."""
    settings = evaluation_settings(config)
    return Detector(settings.fallback, settings.shift, HourClock(build_calendar(config)))


def _written(seconds: int) -> str:
    return format_duration(timedelta(seconds=seconds))
