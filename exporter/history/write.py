"""Writes the stored history as OpenMetrics with timestamps, from beginning to end."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, TextIO

from exporter.app.settings import backfill_settings, evaluation_settings
from exporter.config import Config, build_calendar
from exporter.evaluation.replay import StatusReplay
from exporter.history.range import NothingToWriteError, Range, choose_range, demand_complete
from exporter.metrics.timed_exposition import TimedWriter
from exporter.model.calendar import HourClock
from exporter.model.histogram_codec import MARK_SECONDS, DamagedDigestError
from exporter.model.ledger import wanted
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import bar, progress_line
from exporter.store import Store

_FOR_EVER: Final = 2**62
_SERIES_AT_ONCE: Final = 25
"""Whole histories are large: so many are in memory at a time."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is to be written, and how.

    Attributes:
        target_labels: what Prometheus adds to each sample that it scrapes.
        since: where to begin, Unix seconds, if not with what is stored.
        until: where to end, Unix seconds, if not by itself.
        step_seconds: how far the samples of a series lie apart, a multiple of five minutes.
        incomplete: write what there is although some of it is still to be read.
    """

    target_labels: Mapping[str, str]
    since: int | None = None
    until: int | None = None
    step_seconds: int = MARK_SECONDS
    incomplete: bool = False


@dataclass(slots=True)
class Written:
    """What was written.

    Attributes:
        range: the part of the past.
        series: how many series.
        samples: how many samples.
        damaged: series whose stored bytes are damaged; they were left out.
    """

    range: Range
    series: int = 0
    samples: int = 0
    damaged: list[SeriesKey] = field(default_factory=list)


def write_history(config: Config, options: ExportOptions, out: IO[bytes], progress: TextIO, now: float) -> Written:
    """Write the stored history.

    Args:
        config: the configuration: where the history is, and how it is judged.
        options: what to write.
        out: where to.
        progress: where to show how far it has come, if that is a terminal.
        now: Unix seconds.

    Raises:
        NothingToWriteError: nothing is stored of that time.
        UnreadError: part of it has not been read yet.
        StoreError: it is not there, or cannot be read.
        DatabaseTooNewError: a newer exporter wrote it.
        DatabaseTooOldError: an older exporter wrote it.
        OSError: there is no room for what is written.
    """
    with closing(Store.open_readonly(config.storage.path)) as store, TimedWriter(options.target_labels) as writer:
        written = Written(_range(store, config, options, now))
        clock = HourClock(build_calendar(config))
        _collect(
            store, StatusReplay(evaluation_settings(config), clock), written, options.step_seconds, writer, progress
        )
        written.series, written.samples = writer.series, writer.samples
        if not written.samples:
            raise NothingToWriteError("nothing is stored of that time")
        with progress_line(lambda: f"writing {writer.samples:,} samples", progress):
            writer.write(out)
    return written


def _range(store: Store, config: Config, options: ExportOptions, now: float) -> Range:
    entries = store.ledger(0, _FOR_EVER)
    found = choose_range(entries, now, since=options.since, until=options.until)
    if config.polling.backfill_enabled and not options.incomplete:
        settings, calendar = backfill_settings(config), build_calendar(config)
        range_wanted = wanted(
            now,
            calendar,
            duration_seconds=settings.duration_seconds,
            settle_seconds=settings.settle_seconds,
            batch_seconds=settings.batch_seconds,
        )
        demand_complete(entries, range_wanted, options.since, found.until, calendar)
    return found


def _collect(
    store: Store, recall: StatusReplay, written: Written, step_seconds: int, writer: TimedWriter, progress: TextIO
) -> None:
    """Replay every series; what is found goes into the writer."""
    since, until = written.range.since, written.range.until
    keys = store.series()
    done = 0
    with progress_line(lambda: f"replaying {bar(done / len(keys))}  {done:,} of {len(keys):,} series", progress):
        for stored in store.history(keys, 0, until, marks_from=0, at_once=_SERIES_AT_ONCE):
            try:
                writer.add(stored.key, recall.replay(stored, since, until, step_seconds))
            except DamagedDigestError:
                written.damaged.append(stored.key)
            done += 1


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there with all of its content, or as it was before.

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
