"""Settings that keep the flags within a budget, such as two a week: proposed from replays of recorded traffic.

A flag is an episode of the report that touches no labelled incident. If all endpoints together raise more flags than
the budget allows, those that raise the most get higher limits: there is a cap on the flags of one endpoint, as high as
possible. An endpoint gets the lowest limits by which its own flags do not exceed the cap; each step of its ladder of
limits is replayed, so that the flags that remain are exact. If many endpoints raise a few flags each, caps would fit
the past and not what comes later: then all endpoints get higher limits first.

Limits that just fit the past let more through later: a flag that decides them is itself kept out by them. The flags to
expect in as much later time are therefore the events of the past that limits chosen without that event would let
through. For independent events this number has the expectation of the later one (Mecke's equation for Poisson
processes; Last and Penrose, Lectures on the Poisson Process, 2017, theorem 4.1). The cap and the limits of all are the
ones with which it is within the budget; without one event, these could be lower until one more is let through.

Where each endpoint has a budget, few flags decide its limits. A cap between two numbers therefore means limits between
those of the two. And an endpoint that has many flags has more than usual by chance as well, so that fewer come later:
its number is shrunk towards the mean of all endpoints (empirical Bayes, gamma-distributed rates; Robbins, 1956).

The flags of each endpoint count in its own time, from when it had its first verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor, isfinite
from operator import sub
from statistics import fmean
from typing import Final, Generic, NamedTuple, TypeVar

from exporter.backtest.labels import Label
from exporter.backtest.limits import Changes, ErrorLimits, Limits, TrafficLimits
from exporter.backtest.replay import FiringPeriod, SeriesReplay
from exporter.backtest.score import Interval, unlabelled_episodes
from exporter.config.units import parse_duration
from exporter.detection.flag import FlagKind
from exporter.model.pattern import MAX_CHARACTERS
from exporter.model.span import SeriesKey

_PERIODS: Final = {"day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}
_EACH: Final = "endpoint"

MAX_STEPS: Final = 44
"""The last step of an endpoint's own ladder has 45 times the ratio of the first."""
MAX_COMMON_STEPS: Final = 16
"""The last step of all endpoints has 4 times the ratio of the first, and 256 times the minimum difference."""
_FEW: Final = 3
_FEW_SHARE: Final = 0.5
"""If a cap limits more endpoints than these, and than this share of the budget, all endpoints get higher limits."""
_SAME_EVENT_SECONDS: Final = 6 * 3600
"""Episodes of one endpoint that are closer than this are one event: what caused the one may have caused the other."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A number of flags in a time.

    Attributes:
        text: as it was given.
        flags: number of flags.
        seconds: the time.
        per_endpoint: whether each endpoint has it for itself, and not all together.
    """

    text: str
    flags: float
    seconds: int
    per_endpoint: bool = False

    def allowed(self, seconds: float) -> float:
        """Return how many flags it allows in a time."""
        return self.flags * seconds / self.seconds


def parse_budget(text: str) -> Budget:
    """Parse a budget such as ``2/week``, ``1/day``, ``10/30d`` or ``2/week/endpoint``.

    Raises:
        ValueError: not a budget; the message says what to write.
    """
    number, _, rest = text.strip().partition("/")
    period, separator, each = rest.partition("/")
    problem = f"must be a number of flags and a time, such as 2/week, 1/day, 10/30d or 2/week/endpoint, not {text!r}"
    if separator and each != _EACH:
        raise ValueError(problem)
    try:
        flags = float(number)
        seconds = _PERIODS.get(period) or int(parse_duration(period).total_seconds())
    except ValueError:
        raise ValueError(problem) from None
    if not isfinite(flags) or flags <= 0 or seconds <= 0:
        raise ValueError(problem)
    return Budget(text.strip(), flags, seconds, bool(separator))


_L = TypeVar("_L", Limits, ErrorLimits, TrafficLimits)


class Step(NamedTuple, Generic[_L]):
    """A step of a ladder: limits, and the episodes that they leave, without labelled ones."""

    limits: _L
    episodes: Sequence[Sequence[FiringPeriod]]


@dataclass
class Endpoint(Generic[_L]):
    """An endpoint that raises flags with the present settings.

    Attributes:
        key: its names.
        replay: its replay with the present settings.
        present: its present limits.
        overridden: keys of ``detection`` that present overrides decide; those of all endpoints do not reach it.
        labels: its labelled incidents.
        replay_with: replays it with other limits.
        steps: its own ladder so far; the first step has the present limits, or those of all endpoints.
        flags_before: number of flags with the present settings.
    """

    key: SeriesKey
    replay: SeriesReplay
    present: _L
    overridden: frozenset[str]
    labels: Sequence[Label]
    replay_with: Callable[[_L], SeriesReplay]
    steps: list[Step[_L]] = field(init=False)
    flags_before: int = field(init=False)
    _events: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = [Step(self.present, counted_episodes(self.replay, self.labels, self.present.kind))]
        self.flags_before = self.flags
        self._events = self._find_events()

    @property
    def flags(self) -> int:
        """Number of flags before the first step of its own ladder."""
        return len(self.steps[0].episodes)

    @property
    def seconds(self) -> int:
        """Time in which its flags count."""
        return counted_seconds(self.replay)

    def start(self, common: _L) -> None:
        """Begin the ladder at the limits of all endpoints, where these reach it."""
        limits = self.present.with_common(common, self.overridden)
        # Higher limits leave no flag either.
        episodes = self.steps[0].episodes and self._step(limits).episodes
        self.steps = [Step(limits, episodes)]
        self._events = self._find_events()

    def climb(self) -> None:
        """Replay steps until no flag is left, or the last step is reached."""
        limits = first = self.steps[0].limits
        for number in range(1, MAX_STEPS + 1):
            left = self.steps[-1].episodes
            if not left:
                break
            limits = limits.raised(number, left, first)
            if limits != self.steps[-1].limits:
                self.steps.append(self._step(limits))
        self._events = self._find_events()

    def chosen(self, cap: float, without: Sequence[int] = ()) -> int:
        """Return the first step with at most ``cap`` flags, or with the fewest flags if none has so few.

        With a cap between two whole numbers it is the step between those of the two.

        Args:
            cap: number of flags.
            without: flags of an event to be left out, by step.
        """
        left = [len(step.episodes) for step in self.steps]
        if without:
            left = list(map(sub, left, without))
        lower = floor(cap)
        first = _first_within(left, lower)
        return first if cap == lower else round(first + (cap - lower) * (_first_within(left, lower + 1) - first))

    def expected(self, cap: float) -> float:
        """Return the expected number of flags in as much later time, if the limits are chosen by a cap."""
        lower = floor(cap)
        expected = self._expected(lower)
        return expected if cap == lower else expected + (cap - lower) * (self._expected(lower + 1) - expected)

    def _expected(self, cap: int) -> int:
        return sum(event[self.chosen(cap, event)] for event in self._events)

    def _find_events(self) -> list[list[int]]:
        """Return for each event the number of its episodes by step: episodes of any steps that are close in time."""
        marked = sorted(
            (Interval(episode[0].start, max(period.end for period in episode)), position)
            for position, step in enumerate(self.steps)
            for episode in step.episodes
        )
        found: list[list[int]] = []
        end = 0.0
        for interval, position in marked:
            if not found or interval.start - end >= _SAME_EVENT_SECONDS:
                found.append([0] * len(self.steps))
                end = interval.end
            found[-1][position] += 1
            end = max(end, interval.end)
        return found

    def _step(self, limits: _L) -> Step[_L]:
        return Step(limits, counted_episodes(self.replay_with(limits), self.labels, limits.kind))


def _first_within(left: Sequence[int], cap: int) -> int:
    most = max(cap, min(left))
    return next(position for position, flags in enumerate(left) if flags <= most)


def counted_seconds(replay: SeriesReplay) -> int:
    """Return the time in which the flags of a replayed endpoint count: from when it had its first verdict."""
    return max(0, replay.end - replay.learned_until)


def counted_episodes(
    replay: SeriesReplay, labels: Sequence[Label], kind: FlagKind = FlagKind.SHIFT
) -> list[list[FiringPeriod]]:
    """Return the episodes of a kind that count against a budget: those that touch no labelled incident."""
    return unlabelled_episodes(replay.periods_of(kind), labels, replay.step_seconds)


class ProposedOverride(NamedTuple):
    """An item of ``overrides``.

    Attributes:
        series: the endpoint.
        match: expression that matches its name only.
        changes: the settings that change.
        flags_before: flags with the present settings.
        flags: flags that are left.
    """

    series: str
    match: str
    changes: Changes
    flags_before: int
    flags: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Settings that keep the flags of a kind within a budget.

    Attributes:
        kind: which flags.
        budget: the budget.
        seconds: the time that flags were counted in: from the end of learning to the end of the traffic; of endpoints
            with histories of different length the mean, weighted by their flags.
        allowed: flags that the budget allows in that time; for one endpoint, if each has its own.
        flags_before: flags with the present settings.
        flags: flags that are left with the proposed ones.
        expected: flags to expect in as much later time with the proposed ones.
        common: settings for all endpoints; None if they stay as they are.
        overrides: items for the beginning of ``overrides``.
        is_kept: whether the budget is kept in the recorded traffic.
        is_expected_to_hold: whether it is expected to be kept later.
    """

    kind: FlagKind
    budget: Budget
    seconds: int
    allowed: float
    flags_before: int
    flags: int
    expected: float
    common: Changes | None
    overrides: tuple[ProposedOverride, ...]
    is_kept: bool
    is_expected_to_hold: bool


def propose(
    budget: Budget,
    endpoints: Sequence[Endpoint[_L]],
    base: _L,
    replays: Sequence[SeriesReplay],
    on_replay: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Proposal:
    """Propose limits that keep to a budget.

    Args:
        budget: the budget.
        endpoints: those that raise flags with the present settings.
        base: limits of endpoints without overrides.
        replays: replays of all endpoints with the present settings.
        on_replay: called with the number of endpoints that were replayed again, and their total.
    """
    endpoints = sorted(endpoints, key=lambda endpoint: endpoint.key)
    if budget.per_endpoint:
        return _propose_for_each(budget, endpoints, base, replays, on_replay)
    return _propose_for_all(budget, endpoints, base, _common_seconds(endpoints, replays), on_replay)


def _common_seconds(endpoints: Sequence[Endpoint[_L]], replays: Sequence[SeriesReplay]) -> int:
    """Return the time in which the endpoints together raise their flags, if each raises its own in its time."""
    per_second = sum(endpoint.flags / endpoint.seconds for endpoint in endpoints if endpoint.seconds)
    if per_second:
        # Whole seconds: a budget that allows four flags must not allow 3.999 of them.
        return round(sum(endpoint.flags for endpoint in endpoints) / per_second)
    return max(map(counted_seconds, replays), default=0)


def _propose_for_each(
    budget: Budget,
    endpoints: Sequence[Endpoint[_L]],
    base: _L,
    replays: Sequence[SeriesReplay],
    on_replay: Callable[[int, int], None],
) -> Proposal:
    caps = []
    expected_in_all = 0.0
    is_kept = holds = True
    prior = _Rates([endpoint.flags for endpoint in endpoints], len(replays))
    for position, endpoint in enumerate(endpoints):
        on_replay(position, len(endpoints))
        # Numbers of flags are whole, and so is what is as many as allowed.
        allowed = budget.allowed(endpoint.seconds)
        most = floor(allowed + 0.5)
        cap = float(endpoint.flags)
        lasting = prior.lasting_share(endpoint.flags)
        if cap > most:
            endpoint.climb()
            cap = _own_cap(endpoint, most, allowed / lasting)
        expected = lasting * endpoint.expected(cap)
        caps.append(cap)
        expected_in_all += expected
        is_kept &= len(endpoint.steps[endpoint.chosen(cap)].episodes) <= most
        holds &= expected <= allowed + 0.5
    seconds = max(map(counted_seconds, replays), default=0)
    return _proposal(budget, base, seconds, endpoints, caps, None, is_kept, expected_in_all, holds)


def _own_cap(endpoint: Endpoint[_L], most: int, expected: float) -> float:
    """Return the cap of one endpoint with which a number of flags is expected, at most another number."""
    cap = most
    while cap > 0 and endpoint.expected(cap) > expected:
        cap -= 1
    if cap == most:
        return float(most)
    lower, upper = endpoint.expected(cap), endpoint.expected(cap + 1)
    return cap + max(0.0, min(1.0, (expected - lower) / (upper - lower))) if upper > lower else float(cap)


class _Rates:
    """How much the numbers of flags of endpoints differ beyond chance."""

    def __init__(self, flags: Sequence[int], endpoints: int) -> None:
        """Take the numbers of those that have any, and the number of all."""
        everyone = [*flags, *[0] * (endpoints - len(flags))]
        self._mean = fmean(everyone) if everyone else 0.0
        squares = sum((each - self._mean) ** 2 for each in everyone)
        # A Poisson count has a variance as large as its mean.
        beyond = max(0.0, squares / max(1, len(everyone) - 1) - self._mean)
        self._own_share = beyond / (beyond + self._mean) if self._mean else 1.0

    def lasting_share(self, flags: int) -> float:
        """Return which share of the flags of an endpoint, given their number, is expected in later time."""
        if not flags:
            return 1.0
        return self._own_share + (1 - self._own_share) * self._mean / flags


def _propose_for_all(
    budget: Budget, endpoints: Sequence[Endpoint[_L]], base: _L, seconds: int, on_replay: Callable[[int, int], None]
) -> Proposal:
    allowed = budget.allowed(seconds)
    # Without one of the flags, the limits of all could be lower until one more is let through.
    most = max(1.0, allowed - 1)
    caps = [endpoint.flags for endpoint in endpoints]
    common: _L | None = None
    if sum(caps) > allowed:
        for step in range(MAX_COMMON_STEPS + 1):
            if step:
                common = base.scaled(step)
                for position, endpoint in enumerate(endpoints):
                    on_replay(position, len(endpoints))
                    endpoint.start(common)
            if step < MAX_COMMON_STEPS and not _can_be_capped([endpoint.flags for endpoint in endpoints], most):
                continue
            caps = _common_cap(endpoints, most, allowed, on_replay)
            # Limits of all end far below those of one endpoint's own ladder.
            is_out_of_reach = any(len(each.steps) > 1 and each.steps[-1].episodes for each in endpoints)
            if is_out_of_reach or _expected(endpoints, caps) <= most:
                break
    flags = sum(len(e.steps[e.chosen(cap)].episodes) for e, cap in zip(endpoints, caps, strict=True))
    is_present = sum(endpoint.flags_before for endpoint in endpoints) <= allowed
    expected = flags if is_present else _expected(endpoints, caps) + 1
    return _proposal(
        budget, base, seconds, endpoints, caps, common, flags <= allowed, expected, is_present or expected <= allowed
    )


def _can_be_capped(flags: Sequence[int], most: float) -> bool:
    """Whether a cap on the flags of each endpoint keeps to a number, and limits few endpoints."""
    if sum(flags) <= most:
        return True
    # With a cap of k, k + 1 flags are expected of an endpoint that has more.
    cap = -1
    while cap < max(flags) and sum(min(each, cap + 2) for each in flags) <= most:
        cap += 1
    return cap >= 0 and sum(each > cap for each in flags) <= max(_FEW, _FEW_SHARE * most)


def _common_cap(
    endpoints: Sequence[Endpoint[_L]], most: float, allowed: float, on_replay: Callable[[int, int], None]
) -> list[int]:
    """Lower the caps of the endpoints with the most flags, one by one, until few enough are left and expected."""
    caps = [endpoint.flags for endpoint in endpoints]
    left = list(caps)
    expected = [endpoint.expected(cap) for endpoint, cap in zip(endpoints, caps, strict=True)]
    left_in_all, expected_in_all = sum(left), sum(expected)
    for cap in range(max(caps, default=0) - 1, -1, -1):
        for position, endpoint in enumerate(endpoints):
            if expected_in_all <= most and left_in_all <= allowed:
                return caps
            if caps[position] > cap:
                if len(endpoint.steps) == 1:
                    on_replay(position, len(endpoints))
                    endpoint.climb()
                caps[position] = cap
                expected_in_all -= expected[position]
                left_in_all -= left[position]
                expected[position] = endpoint.expected(cap)
                left[position] = len(endpoint.steps[endpoint.chosen(cap)].episodes)
                expected_in_all += expected[position]
                left_in_all += left[position]
    return caps


def _expected(endpoints: Sequence[Endpoint[_L]], caps: Sequence[int]) -> float:
    return sum(endpoint.expected(cap) for endpoint, cap in zip(endpoints, caps, strict=True))


def _proposal(
    budget: Budget,
    base: _L,
    seconds: int,
    endpoints: Sequence[Endpoint[_L]],
    caps: Sequence[float],
    common: _L | None,
    is_kept: bool,
    expected: float,
    holds: bool,
) -> Proposal:
    overrides = []
    flags = 0
    for endpoint, cap in zip(endpoints, caps, strict=True):
        first, chosen = endpoint.steps[0].limits, endpoint.steps[endpoint.chosen(cap)]
        flags += len(chosen.episodes)
        limits = chosen.limits
        if limits != first:
            overrides.append(
                ProposedOverride(
                    series=endpoint.replay.series,
                    match=pattern_of(endpoint.key),
                    changes=_changes(first.values(), limits.values()),
                    flags_before=endpoint.flags_before,
                    flags=len(chosen.episodes),
                )
            )
    return Proposal(
        kind=base.kind,
        budget=budget,
        seconds=seconds,
        allowed=budget.allowed(seconds),
        flags_before=sum(endpoint.flags_before for endpoint in endpoints),
        flags=flags,
        expected=expected,
        common=None if common is None else common.values(),
        overrides=tuple(overrides),
        is_kept=is_kept,
        is_expected_to_hold=holds,
    )


def _changes(before: Changes, after: Changes) -> Changes:
    return {key: value for key, value in after.items() if value != before[key]}


def pattern_of(key: SeriesKey) -> str:
    """Return a regular expression in RE2 that matches the names of one series only, with its labels if it has any."""
    text = key.text
    escaped = "".join(map(_escaped, text[:MAX_CHARACTERS]))
    return f"^{escaped}" if len(text) > MAX_CHARACTERS else f"^{escaped}$"


def _escaped(character: str) -> str:
    if character.isalnum() or character in "_-/ :,@%=\"'<>&;!~#`":
        return character
    return (
        f"\\{character}" if "!" <= character <= "~" else character if character.isprintable() else _by_number(character)
    )


def _by_number(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"
