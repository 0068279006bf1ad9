"""Runs a backtest: reads the traffic, replays it and builds the report."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, TextIO

from exporter.app.settings import evaluation_settings, label_names
from exporter.backtest.labels import Label, read_labels
from exporter.backtest.replay import SeriesReplay, replay_history, replay_requests, series_name
from exporter.backtest.report import BacktestReport
from exporter.backtest.traffic import COLUMNS, read_traffic
from exporter.config import Config, build_calendar
from exporter.config.units import format_duration
from exporter.config.wording import hint
from exporter.detection.detector import Detector
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
        settings: overrides of this run, ``key=value`` each, for the report; the configuration includes them.
    """

    csv: Path | None = None
    labels: Path | None = None
    learn_seconds: int | None = None
    service: str | None = None
    span: str | None = None
    settings: Sequence[str] = ()


class _ProgressText:
    """Text of the progress line."""

    def __init__(self) -> None:
        self._text = "reading"

    def reading(self, path: Path, rows: int) -> None:
        self._text = f"reading {printable(path.name)}  {rows:,} rows"

    def replaying(self, position: int, series: int) -> None:
        self._text = f"replaying {bar(position / series)}  {position:,} of {series:,} series"

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
        replays, damaged = _replay_stored(
            store, keys, until, _build_detector(config), options.learn_seconds, progress_text
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
    )


def _replay_stored(
    store: Store,
    keys: Sequence[SeriesKey],
    until: int,
    detector: Detector,
    learn_seconds: int | None,
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
            replays.append(replay_history(stored, detector, until, learn_seconds))
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
    replays: list[SeriesReplay] = []
    for name, requests in sorted(traffic.series.items()):
        progress_text.replaying(len(replays), len(traffic.series))
        replays.append(replay_requests(name, requests, detector, learn_seconds))
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
    )
    if not report.series_days():
        longest = max(replay.end - replay.start for replay in report.replays)
        raise NothingToReplayError(
            f"no series in {path} is longer than the learning period of {_duration_text(learn_seconds)} (the longest "
            f"is {_duration_text(longest)}): set a shorter one with --learn"
        )
    return report


def _build_detector(config: Config) -> Detector:
    """Build the detector from the configuration."""
    settings = evaluation_settings(config)
    return Detector(settings.fallback, settings.shift, HourClock(build_calendar(config)))


def _duration_text(seconds: int) -> str:
    return format_duration(timedelta(seconds=seconds))
