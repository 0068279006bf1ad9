"""Writes the stored history as OpenMetrics with timestamps."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, TextIO

from exporter.app.marks import marks_for_command
from exporter.app.settings import backfill_settings, evaluation_settings, label_names
from exporter.config import Config, build_calendar
from exporter.evaluation.replay import StatusReplay
from exporter.evaluation.stored_source import read_whole_source
from exporter.history.range import HistoryRange, NothingToWriteError, choose_range, require_complete
from exporter.metrics.timed_exposition import TimedWriter
from exporter.model.calendar import HourClock
from exporter.model.histogram_codec import MARK_SECONDS, DamagedDigestError
from exporter.model.ledger import wanted
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import bar, progress_line
from exporter.store import Store

_MAX_TIME: Final = 2**62
_SERIES_AT_ONCE: Final = 25
"""Series held in memory at a time; their complete histories are large."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        target_labels: labels that Prometheus adds to each scraped sample.
        since: start, Unix seconds; None means the start of the stored history.
        until: end, Unix seconds; None means as late as is safe.
        step_seconds: time between samples of a series, a multiple of five minutes.
        incomplete: write the history even if some of it is not read yet.
    """

    target_labels: Mapping[str, str]
    since: int | None = None
    until: int | None = None
    step_seconds: int = MARK_SECONDS
    incomplete: bool = False


@dataclass(slots=True)
class HistoryExport:
    """What was written.

    Attributes:
        range: the range of history.
        series: number of series.
        samples: number of samples.
        damaged: series that were left out because their stored history is damaged.
    """

    range: HistoryRange
    series: int = 0
    samples: int = 0
    damaged: list[SeriesKey] = field(default_factory=list)


def write_history(
    config: Config, options: ExportOptions, out: IO[bytes], progress: TextIO, now: float
) -> HistoryExport:
    """Write the stored history.

    Args:
        config: the configuration; ``storage.path`` is the history.
        options: what to write.
        out: output stream.
        progress: stream for the progress line, which is shown only on a terminal.
        now: Unix seconds.

    Raises:
        NothingToWriteError: no history is stored in the range.
        IncompleteHistoryError: part of the range is not read yet.
        StoreError: the history is missing or cannot be read.
        DatabaseTooNewError: a newer exporter wrote it.
        DatabaseTooOldError: an older exporter wrote it.
        OSError: the output or a temporary file cannot be written.
    """
    with (
        closing(Store.open_readonly(config.storage.path)) as store,
        TimedWriter(options.target_labels, label_names(config)) as writer,
    ):
        export = HistoryExport(_choose_range(store, config, options, now))
        clock = HourClock(build_calendar(config))
        settings = evaluation_settings(config)
        marks = marks_for_command(config, store)
        source = read_whole_source(store, settings.detector(clock), export.range.until)
        _collect(store, StatusReplay(settings, clock, source, marks), export, options.step_seconds, writer, progress)
        export.series, export.samples = writer.series, writer.samples
        if not export.samples:
            raise NothingToWriteError("no history is stored in that range")
        with progress_line(lambda: f"writing {writer.samples:,} samples", progress):
            writer.write(out)
    return export


def _choose_range(store: Store, config: Config, options: ExportOptions, now: float) -> HistoryRange:
    entries = store.ledger(0, _MAX_TIME)
    chosen = choose_range(entries, now, since=options.since, until=options.until)
    if config.polling.backfill_enabled and not options.incomplete:
        settings, calendar = backfill_settings(config), build_calendar(config)
        wanted_range = wanted(
            now,
            calendar,
            duration_seconds=settings.duration_seconds,
            settle_seconds=settings.settle_seconds,
            batch_seconds=settings.batch_seconds,
        )
        require_complete(entries, wanted_range, options.since, chosen.until, calendar)
    return chosen


def _collect(
    store: Store,
    status_replay: StatusReplay,
    export: HistoryExport,
    step_seconds: int,
    writer: TimedWriter,
    progress: TextIO,
) -> None:
    """Replay all series and add their samples to the writer."""
    since, until = export.range.since, export.range.until
    keys = store.series()
    position = 0
    with progress_line(
        lambda: f"replaying {bar(position / len(keys))}  {position:,} of {len(keys):,} series", progress
    ):
        for stored in store.history(keys, 0, until, marks_from=0, at_once=_SERIES_AT_ONCE):
            try:
                writer.add(stored.key, status_replay.replay(stored, since, until, step_seconds))
            except DamagedDigestError:
                export.damaged.append(stored.key)
            position += 1


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that replaces the target only once it is complete.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
