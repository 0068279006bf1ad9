"""The demo's scenario: a small web shop with a week of history, one past incident and one about to start.

Its endpoints are chosen so that every fallback level occurs on any day and at any hour: busy endpoints (level 1), quiet
ones (2), jobs that run in one hour of the day (3, away from that hour), weekend work (4, on a weekday) and endpoints
that were deployed today (5).
"""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from exporter.demo.endpoints import Call, Endpoint, SyntheticTraces
from exporter.demo.faults import FastFailures, Fault, FaultKind
from exporter.demo.latency import HOUR_SECONDS, Bimodal, HeavyTailed, Incident, LatencyShape, Lognormal
from exporter.demo.traces import Operation
from exporter.demo.traffic import DAY_SECONDS, SeriesProfile

SEED: Final = 7
INCIDENT_AFTER_SECONDS: Final = 20.0
INCIDENT_SECONDS: Final = 600.0
INCIDENT_FACTOR: Final = 8.0
INCIDENT_FAILURES: Final = 1 / 3
INCIDENT_FAILURE_FACTOR: Final = 0.1
"""A third of the requests fails in a tenth of the time, where that is the incident."""
INCIDENT_SERVICE: Final = "checkout"
INCIDENT_SPAN: Final = "POST /checkout"
FAULT_SERVICE: Final = "ledger"
FAULT_CALL: Final = "INSERT entries"

_HISTORY_SECONDS: Final = 8 * DAY_SECONDS
_PAST_INCIDENT_AGO_SECONDS: Final = 3 * DAY_SECONDS + 7 * HOUR_SECONDS
_PAST_INCIDENT_SECONDS: Final = 2 * HOUR_SECONDS
_PAST_INCIDENT_FACTOR: Final = 4.0
_DEPLOYED_AGO_SECONDS: Final = 5 * HOUR_SECONDS
_RESOURCE: Final = (("deployment.environment", "demo"), ("deployment.environment.name", "demo"))
"""The environment by the former and by the present convention."""
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKEND_DAYS_AGO: Final = (5, 4)


def _weekend(now: float) -> tuple[int, int]:
    today = datetime.fromtimestamp(now, UTC)
    first, second = ((today - timedelta(days=ago)).weekday() for ago in _WEEKEND_DAYS_AGO)
    return first, second


def calendar_weekend(now: float) -> tuple[str, str]:
    """Return the two days that are the demo's weekend, for ``calendar.weekend``, in UTC.

    A week of history has only two days of a real weekend, and a baseline needs three windows to be mature. So that the
    demo shows the same on any day, its weekend is four and five days ago: today and tomorrow are weekdays, and at least
    four of the previous seven days are of the same type.
    """
    first, second = _weekend(now)
    return _WEEKDAYS[first], _WEEKDAYS[second]


def _http(service: str, name: str) -> Operation:
    method, route = name.split(maxsplit=1)
    return Operation(service, name, "server", _RESOURCE, (("http.request.method", method), ("http.route", route)))


def _grpc(service: str, name: str) -> Operation:
    return Operation(service, name, "server", _RESOURCE, (("rpc.system", "grpc"),))


def _message(service: str, name: str) -> Operation:
    return Operation(service, name, "consumer", _RESOURCE, (("messaging.system", "kafka"),))


def _job(name: str) -> Operation:
    return Operation("batch", name, "internal", _RESOURCE)


def _remote(caller: str, callee: Operation, start_share: float, max_share: float, *calls: Call) -> Call:
    """Return a call to another service: the client span, and the server span in it."""
    outgoing = Operation(caller, callee.name, "client", callee.resource, callee.attributes)
    return Call(outgoing, start_share, max_share, (Call(callee, 0.04, 0.92, calls),))


def _sql(service: str, name: str, start_share: float, max_share: float) -> Call:
    return Call(
        Operation(service, name, "client", _RESOURCE, (("db.system.name", "postgresql"),)), start_share, max_share
    )


_GET_USER: Final = _grpc("users", "users.v1.Users/GetUser")
_BOOK: Final = _grpc(FAULT_SERVICE, "ledger.v1.Ledger/Book")
_FAULTS: Final[dict[FaultKind, Fault]] = {
    "slow_call": Fault("slow_call", FAULT_SERVICE, FAULT_CALL, "client", FAULT_SERVICE),
    "slow_instance": Fault("slow_instance", FAULT_SERVICE, _BOOK.name, "server", FAULT_SERVICE),
    "more_calls": Fault("more_calls", FAULT_SERVICE, FAULT_CALL, "client", FAULT_SERVICE),
    "slow_network": Fault("slow_network", "payments", _BOOK.name, "client", FAULT_SERVICE),
    "retries": Fault("retries", "payments", _BOOK.name, "client", FAULT_SERVICE),
}
"""What may make requests slow in the upcoming incident; all of it is in the ledger, two services below the checkout."""
_GET_PRICES: Final = _grpc("catalog", "catalog.v1.Catalog/GetPrices")


@dataclass(frozen=True)
class _Shop:
    """The shop when the demo starts at ``now``.

    Rates are chosen by the number of windows after a week: 4 of the exact slot on a weekday, 20 of the nearby hours, 96
    or more of all weekdays.
    """

    now: float
    incident_after_seconds: float
    traffic_factor: float
    weekend: frozenset[int]
    fault: FaultKind = "slow_call"

    def profile(
        self,
        per_hour: float,
        base_ms: float,
        shape: LatencyShape | None = None,
        *,
        traffic_swing: float = 0.35,
        weekend_traffic: float = 0.75,
        latency_swing: float = 1.3,
        load_sd: float = 0.06,
        active_hours: frozenset[int] | None = None,
        begins_at: float = -math.inf,
        incident: Incident | None = None,
    ) -> SeriesProfile:
        """Return a profile with the shop's defaults."""
        return SeriesProfile(
            rate_per_minute=per_hour / 60 * self.traffic_factor,
            base_seconds=base_ms / 1000,
            shape=shape or Lognormal(0.4),
            peak_hour=14.5,
            traffic_swing=traffic_swing,
            weekend_traffic=weekend_traffic,
            active_hours=active_hours,
            latency_swing=latency_swing,
            weekend_latency=0.9,
            load_sd=load_sd,
            load_correlation_minutes=40,
            day_sd=0.02,
            weekend=self.weekend,
            begins_at=begins_at,
            incidents=() if incident is None else (incident,),
        )

    def with_incidents(self) -> tuple[Endpoint, ...]:
        """Busy endpoints, one with an incident about to start and one with a past incident."""
        start = self.now + self.incident_after_seconds
        past_start = self.now - _PAST_INCIDENT_AGO_SECONDS
        upcoming = Incident(start, start + INCIDENT_SECONDS, INCIDENT_FACTOR)
        profile = self.profile(1_200, 180, traffic_swing=0.25, incident=upcoming)
        failures = None
        if self.fault == "silence":
            profile = replace(profile, incidents=(), gaps=((start, start + INCIDENT_SECONDS),))
        elif self.fault == "errors":
            profile = replace(profile, incidents=())
            failures = FastFailures(start, start + INCIDENT_SECONDS, INCIDENT_FAILURES, INCIDENT_FAILURE_FACTOR)
        past = Incident(past_start, past_start + _PAST_INCIDENT_SECONDS, _PAST_INCIDENT_FACTOR)
        return (
            Endpoint(
                _http(INCIDENT_SERVICE, INCIDENT_SPAN),
                profile,
                (
                    _remote("checkout", _GET_USER, 0.02, 0.08),
                    _remote(
                        "checkout",
                        _http("payments", "POST /charges"),
                        0.15,
                        0.7,
                        _remote("payments", _BOOK, 0.4, 0.5, _sql(FAULT_SERVICE, FAULT_CALL, 0.2, 0.6)),
                    ),
                    _sql("checkout", "INSERT orders", 0.88, 0.1),
                    Call(_message("mailer", "order.created process"), 1.1, 1.5),
                ),
                fault=_FAULTS.get(self.fault),
                error_ratio=0.004,
                failures=failures,
            ),
            Endpoint(
                _http("search", "GET /api/search"),
                self.profile(55, 95, Lognormal(0.6), latency_swing=1.8, incident=past),
                (Call(Operation("search", "index lookup", "internal", _RESOURCE), 0.1, 0.85),),
                error_ratio=0.002,
            ),
        )

    def busy(self) -> tuple[Endpoint, ...]:
        """Level 1: at least 20 requests in any hour."""
        return (
            Endpoint(
                _http("gateway", "GET /api/cart"),
                self.profile(60, 24),
                (_remote("gateway", _GET_USER, 0.05, 0.25), _sql("gateway", "SELECT carts", 0.35, 0.5)),
                error_ratio=0.001,
            ),
            Endpoint(
                _http("gateway", "GET /api/products/{id}"),
                self.profile(65, 40, Bimodal()),
                (_remote("gateway", _GET_PRICES, 0.1, 0.8, _sql("catalog", "SELECT prices", 0.2, 0.7)),),
                error_ratio=0.005,
            ),
            Endpoint(
                _http("gateway", "POST /api/login"),
                self.profile(40, 210, Lognormal(0.3), traffic_swing=0.3),
                (_remote("gateway", _GET_USER, 0.1, 0.2),),
            ),
            Endpoint(
                _http("checkout", "GET /checkout/summary"),
                self.profile(45, 60),
                (_sql("checkout", "SELECT orders", 0.2, 0.7),),
            ),
            Endpoint(_grpc("catalog", "catalog.v1.Catalog/ListProducts"), self.profile(45, 30, latency_swing=1.6)),
            Endpoint(
                _grpc("recommendations", "recommendations.v1.Recommender/List"),
                self.profile(45, 120, HeavyTailed(), latency_swing=2.2, load_sd=0.1),
                (_remote("recommendations", _GET_PRICES, 0.5, 0.4),),
                error_ratio=0.01,
            ),
            Endpoint(_http("users", "GET /users/me"), self.profile(45, 8, Lognormal(0.3))),
            Endpoint(
                _message("mailer", "newsletter.requested process"),
                self.profile(40, 450, Lognormal(0.9)),
                trace_id_bits=64,
                error_ratio=0.008,
            ),
        )

    def quiet(self) -> tuple[Endpoint, ...]:
        """Level 2: too few requests in an hour, but enough in five."""
        traffic_swing = 0.15
        return (
            Endpoint(_http("payments", "POST /webhooks/provider"), self.profile(3.5, 70, traffic_swing=traffic_swing)),
            Endpoint(_http("payments", "POST /refunds"), self.profile(3.2, 320, traffic_swing=traffic_swing)),
            Endpoint(
                _http("catalog", "PUT /products/{id}"),
                self.profile(3, 140, Lognormal(0.6), traffic_swing=traffic_swing),
            ),
            Endpoint(_http("users", "POST /users"), self.profile(3.4, 260, traffic_swing=traffic_swing)),
            Endpoint(
                _http("gateway", "GET /api/orders/{id}/invoice"),
                self.profile(3.6, 900, HeavyTailed(), traffic_swing=traffic_swing),
            ),
            Endpoint(
                _message("recommendations", "product.changed process"), self.profile(3, 35, traffic_swing=traffic_swing)
            ),
            Endpoint(_job("cron: expire carts"), self.profile(6, 1_200, traffic_swing=0, weekend_traffic=1)),
        )

    def once_a_day(self) -> tuple[Endpoint, ...]:
        """Level 3: two jobs twelve hours apart, so that at any hour at least one of them has no nearby hours."""
        return (
            Endpoint(
                _job("cron: nightly export"),
                self.profile(
                    36, 14_000, Lognormal(0.3), traffic_swing=0, weekend_traffic=1, active_hours=frozenset({2})
                ),
                (_sql("batch", "SELECT orders", 0.05, 0.6),),
            ),
            Endpoint(
                _job("cron: reconcile payments"),
                self.profile(
                    30, 4_000, Lognormal(0.6), traffic_swing=0, weekend_traffic=1, active_hours=frozenset({14})
                ),
                (_remote("batch", _http("payments", "GET /charges"), 0.1, 0.8),),
            ),
        )

    def at_weekends(self) -> tuple[Endpoint, ...]:
        """Level 4: rare on weekdays, but frequent enough not to become stale."""
        return (
            Endpoint(
                _http("users", "POST /support/tickets"), self.profile(0.25, 150, traffic_swing=0, weekend_traffic=7)
            ),
            Endpoint(_http("catalog", "POST /imports"), self.profile(0.25, 2_500, traffic_swing=0, weekend_traffic=8)),
        )

    def new(self) -> tuple[Endpoint, ...]:
        """Level 5: deployed some hours ago."""
        deployed = self.now - _DEPLOYED_AGO_SECONDS
        return (
            Endpoint(
                _http("gateway", "GET /api/v2/recommendations"),
                self.profile(2.2, 75, traffic_swing=0, begins_at=deployed),
                (_remote("gateway", _grpc("recommendations", "recommendations.v2.Recommender/List"), 0.1, 0.85),),
            ),
            Endpoint(
                _grpc("search", "search.v1.Search/Suggest"),
                self.profile(1.8, 12, traffic_swing=0, begins_at=deployed),
            ),
        )


def demo_endpoints(
    now: float,
    *,
    incident_after_seconds: float = INCIDENT_AFTER_SECONDS,
    traffic_factor: float = 1.0,
    weekend: frozenset[int] | None = None,
    fault: FaultKind = "slow_call",
) -> tuple[Endpoint, ...]:
    """Return the endpoints of the shop; for the arguments see :func:`demo_scenario`."""
    days = frozenset(_weekend(now)) if weekend is None else weekend
    shop = _Shop(now, incident_after_seconds, traffic_factor, days, fault)
    return (
        *shop.with_incidents(),
        *shop.busy(),
        *shop.quiet(),
        *shop.once_a_day(),
        *shop.at_weekends(),
        *shop.new(),
    )


def demo_scenario(
    now: float,
    *,
    seed: int = SEED,
    incident_after_seconds: float = INCIDENT_AFTER_SECONDS,
    traffic_factor: float = 1.0,
    weekend: frozenset[int] | None = None,
    fault: FaultKind = "slow_call",
) -> SyntheticTraces:
    """Return the shop's traces, from eight days before ``now`` on.

    Args:
        now: reference time, Unix seconds; the same value gives the same traces.
        seed: another seed gives different traffic of the same kind.
        incident_after_seconds: start of the live incident after ``now``.
        traffic_factor: multiplies the traffic, for benchmarks; other values than 1 change the fallback levels.
        weekend: weekend days, 0 for Monday; None means those of :func:`calendar_weekend`.
        fault: what is wrong during the live incident.
    """
    endpoints = demo_endpoints(
        now,
        incident_after_seconds=incident_after_seconds,
        traffic_factor=traffic_factor,
        weekend=weekend,
        fault=fault,
    )
    return SyntheticTraces(endpoints, seed, begin=now - _HISTORY_SECONDS)
