"""Ledger entries for tests, and strategies for arbitrary ledgers."""

from collections.abc import Iterable, Sequence
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.ledger import LedgerEntry, Wanted, Window, WindowState

HOUR = HOUR_SECONDS
DAY = 24 * HOUR
# A Tuesday noon in Berlin, two days after the start of DST, so that ranges before it contain the transition.
NOON = 1_774_951_200
UTC_CALENDAR = Calendar()


def entry(
    start: int,
    end: int,
    state: WindowState = WindowState.DONE,
    *,
    traces: int = 0,
    coverage: float | None = None,
    attempts: int = 0,
    retry_at: float | None = None,
) -> LedgerEntry:
    return LedgerEntry(
        Window(start, end),
        state,
        read_at=end,
        traces=traces,
        stored=traces,
        coverage=coverage,
        attempts=attempts,
        retry_at=retry_at,
    )


def failed(window: Window, *, retry_at: float, attempts: int = 1) -> LedgerEntry:
    return entry(*window, WindowState.FAILED, attempts=attempts, retry_at=retry_at)


def seconds_covered(windows: Iterable[tuple[int, int]], range_: Wanted) -> list[tuple[int, int]]:
    """Return the parts of a range covered by windows, merged where adjacent; assert that no windows overlap."""
    parts: list[tuple[int, int]] = []
    for start, end in sorted((max(start, range_.start), min(end, range_.end)) for start, end in windows):
        if start >= end:
            continue
        if parts and start == parts[-1][1]:
            parts[-1] = parts[-1][0], end
            continue
        assert not parts or start > parts[-1][1], f"{start}..{end} is covered twice"
        parts.append((start, end))
    return parts


zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"])
calendars = zones.map(lambda name: Calendar(ZoneInfo(name)))
steps = st.sampled_from([300, 360, 900, 1800, HOUR])


@st.composite
def ranges(draw: st.DrawFn) -> Wanted:
    """Ranges of up to three days around the start of DST in Europe, not aligned to a grid."""
    start = draw(st.integers(NOON - 5 * DAY, NOON))
    return Wanted(start, start + draw(st.integers(0, 3 * DAY)), draw(steps))


@st.composite
def ledgers(draw: st.DrawFn, range_: Wanted) -> Sequence[LedgerEntry]:
    """Entries of any length that do not overlap, as if written under different configurations, with gaps between."""
    position = range_.start - draw(st.integers(0, 2 * HOUR))
    lengths = st.one_of(st.sampled_from([300, 900, 1800, HOUR]), st.integers(1, HOUR))
    entries = []
    for gap, length, state in draw(
        st.lists(st.tuples(st.one_of(st.just(0), st.integers(0, DAY)), lengths, st.sampled_from(WindowState)))
    ):
        position += gap
        is_failed = state is WindowState.FAILED
        entries.append(
            entry(
                position,
                position + length,
                state,
                traces=0
                if state in (WindowState.EMPTY, WindowState.EXPIRED) or is_failed
                else draw(st.integers(1, 900)),
                coverage=1.0 if state in (WindowState.DONE, WindowState.EMPTY) else None,
                attempts=draw(st.integers(1, 5)) if is_failed else 0,
                retry_at=range_.end + draw(st.integers(-HOUR, HOUR)) if is_failed else None,
            )
        )
        position += length
    return entries
