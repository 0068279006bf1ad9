"""Marks from all sources, and the evaluation of marked series from stored history."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.evaluation import time_marks
from exporter.evaluation.time_marks import (
    SilencesUnavailableError,
    TimeMarkRegistry,
    decode_mark,
    encode_mark,
)
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.model.time_mark import LabelMatcher, MarkKind, MarkSource, TimeMark, TimeMarks
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoredMark, StoreError
from tests.support.evaluation import ManagerBench, WatchedStore
from tests.support.samples import DAY, HOUR, KEY, NOON, Clock, around, commit_hour, events

OTHER = SeriesKey("billing", "POST /pay")
NOW = NOON + 600.0
INCIDENT = range(NOON - 2 * DAY, NOON - 2 * DAY + 3 * HOUR, HOUR)


def mark(
    kind: MarkKind = MarkKind.EXPECTED, match: str = "checkout", start: int = INCIDENT[0], hours: int = 3
) -> TimeMark:
    return TimeMark(kind, Pattern(match), start, start + hours * HOUR)


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    store = WatchedStore.in_memory()
    yield store
    store.close()


def filled(store: Store, *, without: Sequence[int] = ()) -> ManagerBench:
    """Two series; one of them has three slow hours. Some hours may not have been read."""
    bench = ManagerBench(store)
    for start in range(NOON - 9 * DAY, NOON, HOUR):
        if start not in without:
            commit_hour(store, start, {OTHER: around(0.2, 40), KEY: around(0.5 if start in INCIDENT else 0.1, 60)})
    bench.signal.notify_windows_written()
    return bench


class TestEvaluation:
    @pytest.mark.parametrize("kind", [MarkKind.EXPECTED, MarkKind.INCIDENT])
    def test_changed_mark_gives_the_baselines_that_would_be_without_the_hours(
        self, store: WatchedStore, kind: MarkKind
    ) -> None:
        bench = filled(store)
        bench.manager.catch_up(NOW)
        before = bench.table(NOW).get(OTHER)
        store.take_recorded()
        bench.marks = TimeMarks([mark(kind)])
        bench.signal.notify_marks_changed()
        assert bench.manager.catch_up(NOW)
        assert [each.key for each in store.take_recorded()] == [KEY]

        plain = Store.in_memory()
        reference = filled(plain, without=INCIDENT)
        reference.manager.catch_up(NOW)
        (found,) = store.history([KEY], 0, NOON)
        (expected,) = plain.history([KEY], 0, NOON)
        assert found.evaluations == expected.evaluations
        assert found.state == expected.state
        assert bench.table(NOW).get(KEY) == reference.table(NOW).get(KEY)
        assert bench.table(NOW).get(OTHER) == before
        plain.close()

    def test_removed_mark_gives_the_evaluation_of_before(self, store: WatchedStore) -> None:
        bench = filled(store)
        bench.manager.catch_up(NOW)
        (before,) = store.history([KEY], 0, NOON)
        assert sum(each.quarantined for each in before.evaluations.values()) >= 3
        bench.marks = TimeMarks([mark(MarkKind.NORMAL)])
        bench.manager.catch_up(NOW)
        (normal,) = store.history([KEY], 0, NOON)
        assert not any(each.quarantined for each in normal.evaluations.values())
        bench.marks = TimeMarks()
        bench.manager.catch_up(NOW)
        assert list(store.history([KEY], 0, NOON)) == [before]

    def test_nothing_is_evaluated_again_without_a_change_or_by_a_restart(self, store: WatchedStore) -> None:
        bench = filled(store)
        bench.marks = TimeMarks([mark(), mark(match="another service"), mark(start=NOON + HOUR)])
        bench.manager.catch_up(NOW)
        store.take_recorded()
        again = ManagerBench(store)
        again.marks = TimeMarks([mark(), mark(start=NOON + 2 * HOUR)])
        again.manager.catch_up(NOW)
        assert store.take_recorded() == []
        assert again.table(NOW).get(KEY) == bench.table(NOW).get(KEY)

    def test_continues_after_an_interruption(self, store: WatchedStore) -> None:
        bench = filled(store)
        bench.manager.catch_up(NOW)
        bench.marks = TimeMarks([mark(match="")])
        store.refuses_writes = True
        with pytest.raises(StoreError):
            bench.manager.catch_up(NOW)
        store.refuses_writes = False
        again = ManagerBench(store)
        again.marks = bench.marks
        again.manager.catch_up(NOW)
        assert {each.key for each in store.take_recorded()} == {KEY, OTHER}
        again.manager.catch_up(NOW)
        assert store.take_recorded() == []

    def test_series_whose_whole_history_is_left_out_has_no_baseline_and_is_not_evaluated_again_and_again(
        self, store: WatchedStore
    ) -> None:
        bench = filled(store)
        bench.manager.catch_up(NOW)
        bench.marks = TimeMarks([mark(start=NOON - 10 * DAY, hours=240)])
        bench.manager.catch_up(NOW)
        store.take_recorded()
        bench.manager.catch_up(NOW)
        assert store.take_recorded() == []
        assert bench.table(NOW).get(KEY).baseline is None
        assert bench.table(NOW).get(OTHER).baseline is not None


class Telemetry:
    def __init__(self) -> None:
        self.counts: dict[MarkSource, int] = {}
        self.loaded: list[tuple[bool, float]] = []
        self.failures = 0

    def marks_counted(self, counts: dict[MarkSource, int]) -> None:
        self.counts = dict(counts)

    def marks_file_loaded(self, successful: bool, at: float) -> None:
        self.loaded.append((successful, at))

    def silences_failed(self) -> None:
        self.failures += 1


class Bench:
    """A registry whose file and silences a test sets."""

    def __init__(self, store: Store, path: Path | None = None, configured: Sequence[TimeMark] = ()) -> None:
        self.file: list[TimeMark] | Exception = []
        self.silences: list[TimeMark] | Exception = []
        self.changes = 0
        self.telemetry = Telemetry()
        self.clock = Clock(NOW)
        self.path = path
        self.build: Callable[[], TimeMarkRegistry] = lambda: TimeMarkRegistry(
            store,
            configured=configured,
            file=path,
            load_file=lambda _: self._given(self.file),
            read_silences=lambda: self._given(self.silences),
            on_change=self._change,
            telemetry=self.telemetry,  # type: ignore[arg-type]
            clock=self.clock,
            monotonic=self.clock,
            log=get_logger("marks"),
        )

    @staticmethod
    def _given(found: list[TimeMark] | Exception) -> list[TimeMark]:
        if isinstance(found, Exception):
            raise found
        return found

    def _change(self) -> None:
        self.changes += 1

    def write(self, marks: list[TimeMark] | Exception) -> None:
        self.file = marks
        assert self.path is not None
        self.path.write_text(f"{self.path.read_text() if self.path.exists() else ''}x")


SILENCE = TimeMark(
    MarkKind.EXPECTED,
    (LabelMatcher.of("service_name", "check.*", is_regex=True, is_equal=True),),
    NOON,
    NOON + HOUR,
    source=MarkSource.ALERTMANAGER,
    id="a1",
)


class TestRegistry:
    def test_marks_of_people_survive_a_restart_and_can_be_deleted(self, store: Store) -> None:
        bench = Bench(store, configured=[mark()])
        registry = bench.build()
        added = registry.add(mark(MarkKind.NORMAL, match="pay"))
        assert (bench.changes, added.source, bool(added.id)) == (1, MarkSource.API, True)
        again = bench.build()
        assert [(each.kind, each.match_text) for each in again.current.marks] == [
            (MarkKind.EXPECTED, "checkout"),
            (MarkKind.NORMAL, "pay"),
        ]
        assert not again.remove("unknown")
        assert again.remove(added.id)
        assert bench.telemetry.counts[MarkSource.API] == 0
        assert len(bench.build().current.marks) == 1

    def test_file_is_reread_when_it_changes(self, store: Store, tmp_path: Path) -> None:
        bench = Bench(store, tmp_path / "marks.yaml")
        bench.write([mark()])
        registry = bench.build()
        assert [each.match_text for each in registry.current.marks] == ["checkout"]
        changes = bench.changes
        registry.update()
        assert bench.changes == changes
        bench.write([mark(), mark(match="pay")])
        registry.update()
        assert bench.changes == changes + 1
        assert [each.match_text for each in registry.current.marks] == ["checkout", "pay"]
        assert {each.source for each in registry.current.marks} == {MarkSource.FILE}

    def test_broken_file_changes_nothing_even_over_a_restart(
        self, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = Bench(store, tmp_path / "marks.yaml")
        bench.write([mark()])
        registry = bench.build()
        bench.write(ValueError("line 3: not YAML"))
        for _ in range(3):
            registry.update()
        assert [each.match_text for each in registry.current.marks] == ["checkout"]
        assert events(caplog, logging.ERROR) == ["marks_file_invalid"]
        assert [each for each, _ in bench.telemetry.loaded] == [True, False, False, False]
        assert len(bench.build().current.marks) == 1
        bench.file = []
        registry.update()
        assert registry.current.marks == ()
        assert bench.telemetry.loaded[-1][0]

    def test_configured_marks_can_be_replaced(self, store: Store) -> None:
        bench = Bench(store, configured=[mark()])
        registry = bench.build()
        registry.set_configured([mark()])
        assert bench.changes == 0
        registry.set_configured([])
        assert (bench.changes, registry.current.marks) == (1, ())

    def test_silences_are_kept_when_alertmanager_forgets_them_and_while_it_does_not_answer(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = Bench(store)
        bench.silences = [SILENCE]
        registry = bench.build()
        registry.update()
        assert registry.current.marks == (SILENCE,)
        bench.silences = []
        for _ in range(3):
            bench.clock.now += 60
            registry.update()
        bench.silences = SilencesUnavailableError("connection refused")
        for _ in range(3):
            bench.clock.now += 60
            registry.update()
        assert bench.telemetry.failures == 3
        assert events(caplog, logging.WARNING) == ["silences_unavailable"]
        assert bench.build().current.marks == (SILENCE,)
        shorter = TimeMark(SILENCE.kind, SILENCE.match, NOON, NOON + 60, source=MarkSource.ALERTMANAGER, id="a1")
        bench.silences = [shorter]
        bench.clock.now += 60
        registry.update()
        assert registry.current.marks == (shorter,)

    def test_silences_beyond_the_limit_are_left_out_and_logged(
        self, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time_marks, "_MAX_STORED", 1)
        bench = Bench(store)
        bench.silences = [SILENCE]
        registry = bench.build()
        registry.update()
        bench.silences = [SILENCE, replace(SILENCE, id="a2")]
        bench.clock.now += 60
        registry.update()
        assert registry.current.marks == (SILENCE,)
        assert events(caplog, logging.WARNING) == ["silences_left_out"]

    @pytest.mark.parametrize(
        "document",
        ["", "[]", '{"kind": "other"}', '{"kind":"normal","start":0,"end":1,"zone":"UTC","pattern":"("}', '{"kind":1}'],
    )
    def test_unreadable_mark_is_left_out(self, store: Store, document: str) -> None:
        store.marks.save([StoredMark("a", "api", None, document)])
        assert Bench(store).build().current.marks == ()

    @pytest.mark.parametrize(
        "one",
        [
            mark(),
            SILENCE,
            TimeMark(
                MarkKind.NORMAL, Pattern("naïve 订单\n"), 0, 60, rule="FREQ=WEEKLY", comment='"', source=MarkSource.API
            ),
        ],
    )
    def test_stored_mark_is_read_back(self, one: TimeMark) -> None:
        assert decode_mark(encode_mark(one)) == one

    def test_old_marks_are_deleted_with_the_history(self, store: Store) -> None:
        registry = Bench(store).build()
        for start, rule in ((NOON - 100 * DAY, ""), (NOON - 100 * DAY, "FREQ=WEEKLY"), (NOON - DAY, "")):
            registry.add(TimeMark(MarkKind.EXPECTED, Pattern(""), start, start + HOUR, rule=rule))
        commit_hour(store, NOON - 50 * DAY, {KEY: around(0.1, 5)})
        store.prune(NOON - 28 * DAY)
        assert len(store.marks.all()) == 2
