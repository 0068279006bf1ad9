"""Which traces are compared, how many requests that takes, and what is said when they cannot be had."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from exporter.cause.verdict import CauseKind, Outcome
from exporter.detection.policy import Override, OverrideValue, SeriesPolicies
from exporter.evaluation.causes.search import CauseSearch
from exporter.evaluation.causes.shift_cause import CauseSettings, Shift, ShiftCause
from exporter.model.calendar import Calendar, HourClock
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.store import Store
from exporter.tempo.errors import StoppedError, TempoError
from exporter.tempo.query import OperationName
from tests.support.cause_traces import Work
from tests.support.causes import CHECKOUT, WholeTempo, a_cause, drawn_shop
from tests.support.fakes import FrozenClock
from tests.support.samples import DAY, HOUR, NOON, SETTINGS, around, commit_hour, evaluate_history

NOW = NOON + 1800.0
SHIFT = Shift(CHECKOUT, NOW, NOW - 60, 3.0, 300)
SLOW = {"insert_ms": 640.0}


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.in_memory()
    yield store
    store.close()


def remember(store: Store, days: int = 3, per_hour: int = 240, hours: tuple[int, ...] = (11, 12, 13)) -> None:
    """Store some hours of each of the days before noon, and evaluate them."""
    for day in range(days, 0, -1):
        for hour in hours:
            commit_hour(store, NOON - day * DAY + (hour - 12) * HOUR, {CHECKOUT: around(0.05, per_hour)})
    evaluate_history(store, NOON)


def healthy(tempo: WholeTempo, per_hour: int = 240, days: int = 2) -> None:
    for day in range(1, days + 1):
        start = NOON - day * DAY
        tempo.fill(start, start + HOUR, per_hour, drawn_shop, seed=day)


def slow_shop(rng: random.Random) -> Work:
    return drawn_shop(rng, **SLOW)


def slow(tempo: WholeTempo, number: int = 200, **changes: Any) -> None:
    tempo.fill(NOW - 300, NOW, number, lambda rng: drawn_shop(rng, **(changes or SLOW)), seed=99)


def search_of(tempo: WholeTempo, store: Store, **changes: Any) -> CauseSearch:
    settings = CauseSettings(12, ("resource.service.version",), SETTINGS)
    given = {"resolve": lambda key: key, "monotonic": FrozenClock(0.0).monotonic, **changes}
    return CauseSearch(tempo, store, HourClock(Calendar()), given.pop("settings", settings), **given)


def find(tempo: WholeTempo, store: Store, shift: Shift = SHIFT, **changes: Any) -> ShiftCause:
    return search_of(tempo, store, **changes).find(shift, loop="cause")


@pytest.mark.parametrize(("ratio", "is_named"), [(3.2, True), (1.5, False), (None, False)])
def test_a_rise_of_traffic_is_named_beside_the_cause(store: Store, ratio: float | None, *, is_named: bool) -> None:
    cause = find(WholeTempo(), store, replace(SHIFT, traffic_ratio=ratio))
    assert cause.text.endswith(" It has 3.2 times the usual traffic.") == is_named


def test_slow_call_is_found_with_four_requests(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    remember(store)
    cause = find(tempo, store)
    verdict = cause.verdict
    assert (verdict.outcome, verdict.kind, verdict.service_name) == (
        Outcome.KNOWN,
        CauseKind.SLOWER_CALLS,
        "payments",
    )
    assert (verdict.incident_traces, verdict.reference_traces) == (20, 20)
    assert cause.requests == tempo.requests == 4
    assert tempo.loops == {"cause"}
    assert cause.reference == "the same hour"
    (share,) = [each for each in cause.shares if each.share > 0.5]
    assert (share.service_name, share.span_name, share.kind) == ("payments", "INSERT charges", CauseKind.SLOWER_CALLS)
    assert cause.slow_trace_id is not None
    assert tempo.traces[cause.slow_trace_id][0].start_ns >= (NOW - 301) * 10**9


def test_of_the_spans_of_one_trace_any_is_compared(store: Store) -> None:
    """Of retried calls, Tempo may return the one that succeeded first."""
    book = SeriesKey("ledger", "Book")

    def charge(rng: random.Random, retries: int = 0) -> Work:
        failing = [Work("ledger", "Book", 90 * rng.uniform(0.8, 1.25), fails=True) for _ in range(retries)]
        return Work("payments", "Charge", 10, [Work("ledger", "Book", 20 * rng.uniform(0.8, 1.25)), *failing])

    tempo = WholeTempo()
    for day in (1, 2):
        tempo.fill(NOON - day * DAY, NOON - day * DAY + HOUR, 240, charge, seed=day)
        commit_hour(store, NOON - day * DAY, {book: around(0.02, 240)})
    tempo.fill(NOW - 300, NOW, 200, lambda rng: charge(rng, retries=9), seed=99)
    evaluate_history(store, NOON)
    verdict = find(tempo, store, Shift(book, NOW, NOW - 60, 3.0, 300)).verdict
    assert (verdict.outcome, verdict.service_name) == (Outcome.KNOWN, "ledger")


def test_same_question_has_the_same_answer(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    remember(store)
    assert find(tempo, store).verdict == find(tempo, store).verdict


def test_healthy_traces_are_of_the_same_hour_of_other_days(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    remember(store)
    find(tempo, store)
    (_, _, _), (start, end, _) = tempo.searches
    assert (start - NOON) % DAY < HOUR
    assert NOON - DAY <= start < end <= NOON - DAY + HOUR
    assert end - start < HOUR  # as long as it takes for 200 of 240 traces


def test_quarantined_and_touched_hours_are_left_out(store: Store) -> None:
    tempo = WholeTempo()
    for day in range(1, 5):
        start = NOON - day * DAY
        is_bad = day in (1, 2)
        tempo.fill(start, start + HOUR, 240, slow_shop if is_bad else drawn_shop, seed=day)
        commit_hour(store, start, {CHECKOUT: around(0.7 if is_bad else 0.05, 240)})
    slow(tempo)
    store.save_flags({}, {CHECKOUT: [NOON - DAY, NOON - 2 * DAY]})
    evaluate_history(store, NOON)
    store.save_flags({}, {CHECKOUT: [NOON - DAY, NOON - 2 * DAY]})
    cause = find(tempo, store)
    assert tempo.searches[1][0] < NOON - 2 * DAY
    assert cause.verdict.service_name == "payments"


def test_hours_of_the_incident_are_no_reference(store: Store) -> None:
    tempo = WholeTempo()
    tempo.fill(NOON - HOUR, NOON + HOUR, 480, lambda rng: drawn_shop(rng, **SLOW))
    commit_hour(store, NOON - HOUR, {CHECKOUT: around(0.05, 240)})
    evaluate_history(store, NOON)
    cause = find(tempo, store, Shift(CHECKOUT, NOW, NOON - 1800.0, 3.0, 300))
    assert cause.verdict.outcome is Outcome.NO_TRACES
    assert cause.text == "Not known why: Tempo returned 0 healthy traces, 10 are needed."


def test_other_hours_serve_where_the_same_hour_has_too_few_traces(store: Store) -> None:
    tempo = WholeTempo()
    for hour in range(6, 11):
        start = NOON - DAY + (hour - 12) * HOUR
        tempo.fill(start, start + HOUR, 30, drawn_shop, seed=hour)
        commit_hour(store, start, {CHECKOUT: around(0.05, 30)})
    slow(tempo)
    evaluate_history(store, NOON)
    cause = find(tempo, store)
    assert cause.reference == "days of the same type"
    assert cause.verdict.outcome is Outcome.KNOWN
    assert cause.requests == 4


def test_dense_traffic_is_read_in_whole_short_slices(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo, days=1)
    slow(tempo, 3000)
    remember(store, days=1)
    cause = find(tempo, store, Shift(CHECKOUT, NOW, NOW - 60, 3.0, 3000))
    assert cause.verdict.service_name == "payments"
    incident = [(start, end) for start, end, _ in tempo.searches if start > NOON]
    assert len(incident) == 2
    assert all(end - start < 15 for start, end in incident)


def test_full_answer_is_no_sample(store: Store) -> None:
    """The expected number of traces is far too low, so the first search is full; shorter ones follow."""
    tempo = WholeTempo()
    healthy(tempo, days=1)
    slow(tempo, 3000)
    remember(store, days=1)
    cause = find(tempo, store, Shift(CHECKOUT, NOW, NOW - 60, 3.0, 100))
    assert cause.verdict.service_name == "payments"
    assert cause.requests <= 12


def test_series_that_tempo_knows_by_other_names_is_searched_by_service(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo, days=1)
    slow(tempo)
    named = SeriesKey("checkout", "POST /{rest}")
    for hour in (-1, 0, 1):
        commit_hour(store, NOON - DAY + hour * HOUR, {named: around(0.05, 240)})
    evaluate_history(store, NOON)
    cause = find(
        tempo, store, Shift(named, NOW, NOW - 60, 3.0, 200), resolve=lambda key: named if key == CHECKOUT else key
    )
    assert cause.verdict.service_name == "payments"
    assert tempo.services == [None, "checkout", "checkout"]


def test_missing_spans_are_read_by_id(store: Store) -> None:
    tempo = WholeTempo(withheld=1)
    healthy(tempo)
    slow(tempo)
    remember(store)
    cause = find(tempo, store)
    assert len(tempo.lookups) == 8
    assert cause.requests == tempo.requests == 12
    # An incomplete trace would be taken apart wrongly, so it is left out.
    assert (cause.verdict.incident_traces, cause.verdict.reference_traces) == (4, 4)
    assert cause.verdict.outcome is Outcome.NO_TRACES


def test_parents_that_tempo_itself_lacks_are_not_looked_for_again(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    for trace in tempo.traces.values():
        trace.append(trace[-1]._replace(span_id="f" * 16, parent_id="e" * 16))
    remember(store)
    cause = find(tempo, store)
    assert len(tempo.lookups) == 1
    assert cause.verdict.service_name == "payments"


def test_tempo_that_cannot_search_by_id_is_asked_for_each_trace(store: Store) -> None:
    tempo = WholeTempo(can_search_by_id=False)
    healthy(tempo)
    slow(tempo)
    remember(store)
    cause = find(tempo, store)
    assert (len(tempo.fetches), len(tempo.lookups)) == (0, 40)
    assert cause.verdict.service_name == "payments"


def test_unclear_cause_takes_more_traces(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo, insert_ms=60.0, cart_ms=63.0)
    remember(store)
    cause = find(tempo, store)
    assert cause.verdict.outcome is Outcome.UNCLEAR
    assert (cause.verdict.incident_traces, cause.verdict.reference_traces) == (50, 50)
    assert cause.requests == 6
    assert cause.text.startswith("Not known why")
    assert cause.shares == ()


def test_requests_stay_within_the_limit(store: Store) -> None:
    tempo = WholeTempo(withheld=1)
    healthy(tempo)
    slow(tempo, 3000)
    remember(store)
    settings = CauseSettings(4, (), SETTINGS)
    assert find(tempo, store, settings=settings).requests == tempo.requests == 4


def test_slow_tempo_is_asked_for_two_minutes(store: Store) -> None:
    clock = FrozenClock(0.0)
    tempo = WholeTempo(before_request=lambda _: clock.advance(70))
    healthy(tempo)
    slow(tempo)
    remember(store)
    cause = find(tempo, store, monotonic=clock.monotonic)
    assert cause.requests == 2
    assert cause.verdict.outcome is Outcome.NO_TRACES


def test_failure_is_said(store: Store) -> None:
    def fail(_: str) -> None:
        raise TempoError("no connection", reason="connection", retryable=True)

    cause = find(WholeTempo(before_request=fail), store)
    assert (cause.verdict.outcome, cause.requests) == (Outcome.FAILED, 1)
    assert cause.text == "Not known why: traces could not be read: no connection"
    assert cause.shares == ()


def overridden(**fields: Any) -> CauseSettings:
    """Return settings with an override for one endpoint."""
    values = tuple(OverrideValue(field, str(value), field, value) for field, value in fields.items())
    override = Override(Pattern(r"^checkout/POST /pay$"), values)
    policies = SeriesPolicies((override,), SETTINGS.fallback, SETTINGS.shift)
    return CauseSettings(12, (), replace(SETTINGS, policies=policies))


def test_incident_is_looked_for_in_the_window_of_the_endpoint(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    remember(store)
    shift = Shift(CHECKOUT, NOW, NOW - 300, 3.0, 300)
    assert find(tempo, store, shift, settings=overridden(window_seconds=120.0)).verdict.service_name == "payments"
    assert NOW - 121 <= tempo.searches[0][0] <= NOW - 119
    tempo.searches.clear()
    other = replace(shift, key=SeriesKey("checkout", "POST /refund"))
    find(tempo, store, other, settings=overridden(window_seconds=120.0))
    assert NOW - 301 <= tempo.searches[0][0] <= NOW - 299


def test_endpoint_with_little_traffic_is_looked_for_in_its_maximum_window(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    tempo.fill(NOW - 7200, NOW, 12, slow_shop, seed=9)
    remember(store)
    shift = Shift(CHECKOUT, NOW, NOW - 7200, 3.0, 12)
    assert find(tempo, store, shift).verdict.outcome is Outcome.NO_TRACES
    cause = find(tempo, store, shift, settings=overridden(max_window_seconds=7200.0))
    assert cause.verdict.incident_traces == 12


def test_healthy_traces_are_looked_for_in_the_lookback_of_the_endpoint(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    remember(store)
    assert find(tempo, store).verdict.outcome is Outcome.KNOWN
    cause = find(tempo, store, settings=overridden(lookback_seconds=3 * HOUR))
    assert cause.text == "Not known why: Tempo returned 0 healthy traces, 10 are needed."


@pytest.mark.parametrize("is_known", [False, True])
def test_ranges_longer_than_tempo_searches_are_divided(store: Store, *, is_known: bool) -> None:
    """Neither the search for candidates nor that for whole traces may be longer than two minutes."""
    tempo = WholeTempo(allowed_seconds=120, max_range_seconds=120 if is_known else None)
    tempo.fill(NOON - DAY, NOON - DAY + HOUR, 2400, drawn_shop, seed=1)
    slow(tempo)
    remember(store, days=1, per_hour=2400)
    settings = CauseSettings(20, (), SETTINGS)
    cause = find(tempo, store, Shift(CHECKOUT, NOW, NOW - 300, 3.0, 200), settings=settings)
    assert (cause.verdict.outcome, cause.verdict.service_name) == (Outcome.KNOWN, "payments")
    assert cause.requests <= 20
    assert is_known == all(end - start <= 120 for start, end, _ in tempo.searches)


def test_whole_traces_apart_by_more_than_tempo_searches_are_fetched_in_parts(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo)
    remember(store)
    # Found by whole searches; what allows only shorter ones comes after them.
    tempo.before_request = lambda kind: setattr(tempo, "allowed_seconds", 1500 if len(tempo.searches) > 1 else None)
    cause = find(tempo, store)
    assert (cause.verdict.outcome, cause.verdict.service_name) == (Outcome.KNOWN, "payments")
    assert (cause.verdict.incident_traces, cause.verdict.reference_traces) == (20, 20)
    # The healthy ones lie within 50 minutes: one search is refused, three find them.
    assert [*tempo.fetches[:2], sum(tempo.fetches[2:])] == [20, 20, 20]


def slow_error(kind: str) -> TempoError:
    return TempoError(f"{kind} timed out", reason="timeout", retryable=True, is_slow=True)


def test_search_that_takes_too_long_is_repeated_for_less(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    slow(tempo, 400)
    remember(store)

    def fail_if_long(kind: str) -> None:
        if kind == "search" and tempo.searches[-1][1] - tempo.searches[-1][0] > 60 and tempo.searches[-1][0] > NOON:
            raise slow_error(kind)
        if kind == "fetch" and tempo.fetches[-1] > 10:
            raise slow_error(kind)

    tempo.before_request = fail_if_long
    cause = find(tempo, store, Shift(CHECKOUT, NOW, NOW - 60, 3.0, 400))
    assert (cause.verdict.outcome, cause.verdict.service_name) == (Outcome.KNOWN, "payments")
    assert set(tempo.services) == {None}


def test_tempo_that_is_slow_for_everything_fails_soon(store: Store) -> None:
    def fail(kind: str) -> None:
        raise slow_error(kind)

    cause = find(tempo := WholeTempo(before_request=fail), store)
    assert (cause.verdict.outcome, tempo.requests) == (Outcome.FAILED, 3)


def test_trace_that_cannot_be_read_by_id_is_left_out(store: Store) -> None:
    tempo = WholeTempo(can_search_by_id=False)
    healthy(tempo)
    slow(tempo)
    remember(store)

    def fail_third(kind: str) -> None:
        if kind == "lookup" and len(tempo.lookups) == 3:
            raise TempoError("trace exceeds max size", reason="refused", status=422)

    tempo.before_request = fail_third
    cause = find(tempo, store)
    assert (cause.verdict.outcome, cause.verdict.service_name) == (Outcome.KNOWN, "payments")
    assert cause.verdict.incident_traces + cause.verdict.reference_traces == 39


def test_traces_of_which_none_can_be_read_by_id_fail_soon(store: Store) -> None:
    tempo = WholeTempo(can_search_by_id=False)
    healthy(tempo)
    slow(tempo)
    remember(store)

    def fail(kind: str) -> None:
        if kind == "lookup":
            raise TempoError("broken", reason="server_error", status=500)

    tempo.before_request = fail
    assert find(tempo, store).verdict.outcome is Outcome.FAILED
    assert len(tempo.lookups) == 4


def test_stopping_ends_the_attempt(store: Store) -> None:
    def stop(_: str) -> None:
        raise StoppedError("stopping")

    with pytest.raises(StoppedError):
        find(WholeTempo(before_request=stop), store)


def test_healthy_traffic_has_no_cause(store: Store) -> None:
    tempo = WholeTempo()
    healthy(tempo)
    tempo.fill(NOW - 300, NOW, 200, drawn_shop, seed=5)
    remember(store)
    assert find(tempo, store).verdict.outcome is Outcome.NO_DIFFERENCE


def test_other_mix_is_blamed_on_no_service(store: Store) -> None:
    tempo = WholeTempo()
    heavy = Work("checkout", "POST /pay", 40, [Work("warehouse", "GET /stock", 400), Work("cart", "GET /cart", 8)])

    def mixed(share: float) -> Any:
        return lambda rng: heavy if rng.random() < share else drawn_shop(rng)

    tempo.fill(NOON - DAY, NOON - DAY + HOUR, 240, mixed(0.2), seed=1)
    tempo.fill(NOW - 300, NOW, 240, mixed(0.9), seed=2)
    remember(store, days=1)
    cause = find(tempo, store)
    assert cause.verdict.service_name is None
    assert all(share.kind is CauseKind.MIX for share in cause.shares)


ITEMS = OperationName("inventory", "GET /items")


def with_rare_kind(share: float, items_ms: float = 500) -> Any:
    """Return a maker of checkouts, a share of which calls another service and takes twelve times as long."""

    def made(rng: random.Random) -> Work:
        if rng.random() >= share:
            return drawn_shop(rng)
        return Work("checkout", "POST /pay", 10, [Work(*ITEMS, items_ms * rng.uniform(0.8, 1.25))])

    return made


def rare_kind_before(tempo: WholeTempo, store: Store, share: float, days: int = 2) -> None:
    for day in range(1, days + 1):
        for hour in range(6, 14):
            start = NOON - day * DAY + (hour - 12) * HOUR
            tempo.fill(start, start + HOUR, 240, with_rare_kind(share), seed=day * 100 + hour)
            commit_hour(store, start, {CHECKOUT: around(0.05, 240)})
    evaluate_history(store, NOON)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.1])
def test_rare_kind_that_becomes_frequent_is_blamed_on_no_service(store: Store, share: float) -> None:
    tempo = WholeTempo()
    rare_kind_before(tempo, store, share)
    tempo.fill(NOW - 300, NOW, 200, with_rare_kind(0.62), seed=99)
    cause = find(tempo, store)
    verdict = cause.verdict
    assert (verdict.outcome, verdict.kind, verdict.service_name) == (Outcome.KNOWN, CauseKind.MIX, None)
    assert cause.requests == tempo.requests <= 8
    assert {each for each in tempo.operations if each} == {(ITEMS,)}
    known = verdict.more_frequent
    assert known is not None
    assert known.now_share == pytest.approx(0.62, abs=0.1)
    assert known.usual_share == pytest.approx(share, rel=0.3)
    assert 'those that call inventory "GET /items" are ' in cause.text


def test_calls_that_no_healthy_request_makes_stay_new(store: Store) -> None:
    tempo = WholeTempo()
    rare_kind_before(tempo, store, 0.0)
    tempo.fill(NOW - 300, NOW, 200, with_rare_kind(0.62), seed=99)
    cause = find(tempo, store)
    assert (cause.verdict.kind, cause.verdict.service_name) == (CauseKind.NEW_CALLS, "inventory")
    # Healthy time has been searched, at most three stretches of it.
    searched = [range_ for range_, operations in zip(tempo.searches, tempo.operations, strict=True) if operations]
    assert 1 <= len(searched) <= 3
    assert all(end <= NOON for _, end, _ in searched)


def test_slower_requests_of_a_rare_kind_are_blamed_on_their_service(store: Store) -> None:
    tempo = WholeTempo()
    rare_kind_before(tempo, store, 0.02)
    tempo.fill(NOW - 300, NOW, 200, with_rare_kind(0.1, items_ms=6_000), seed=99)
    cause = find(tempo, store)
    assert (cause.verdict.kind, cause.verdict.service_name) == (CauseKind.SLOWER_CALLS, "inventory")


@pytest.mark.parametrize("most", [4, 5, 6, 7])
def test_search_for_a_rare_kind_keeps_to_the_limit_of_requests(store: Store, most: int) -> None:
    tempo = WholeTempo()
    rare_kind_before(tempo, store, 0.02)
    tempo.fill(NOW - 300, NOW, 200, with_rare_kind(0.62), seed=99)
    cause = find(tempo, store, settings=CauseSettings(most, (), SETTINGS))
    assert cause.requests == tempo.requests <= most
    assert cause.verdict.outcome is Outcome.KNOWN
    assert (cause.verdict.kind is CauseKind.MIX) == (most == 7)


def test_search_for_a_rare_kind_that_fails_leaves_what_is_known(store: Store) -> None:
    tempo = WholeTempo()
    rare_kind_before(tempo, store, 0.02)
    tempo.fill(NOW - 300, NOW, 200, with_rare_kind(0.62), seed=99)

    def refuse_several_filters(kind: str) -> None:
        if kind == "search" and tempo.operations[-1]:
            raise TempoError("unexpected &&", reason="refused", status=400)

    tempo.before_request = refuse_several_filters
    cause = find(tempo, store)
    assert (cause.verdict.kind, cause.verdict.service_name) == (CauseKind.NEW_CALLS, "inventory")


def test_rare_kind_of_dense_traffic_is_looked_for_in_a_short_time(store: Store) -> None:
    tempo = WholeTempo()
    start = NOON - DAY
    tempo.fill(start, start + HOUR, 10_000, with_rare_kind(0.02), seed=1)
    commit_hour(store, start, {CHECKOUT: around(0.05, 10_000)})
    evaluate_history(store, NOON)
    tempo.fill(NOW - 300, NOW, 600, with_rare_kind(0.62), seed=99)
    cause = find(tempo, store, replace(SHIFT, traces=600))
    assert cause.verdict.kind is CauseKind.MIX
    ranges = [range_ for range_, operations in zip(tempo.searches, tempo.operations, strict=True) if operations]
    (searched,) = [end - start for start, end, _ in ranges if end <= NOON]
    assert searched <= HOUR / 2


def test_kept_account_is_short_but_names_what_changed_most() -> None:
    cause = a_cause()
    assert cause.verdict.account is not None
    assert cause.verdict.account.changes[0].component.span_name == "INSERT charges"
