"""The command: evaluate all services, and print the figures."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from math import inf

import benchmarks.service_shifts
from benchmarks.report import table
from benchmarks.service_shifts import replayed, simulated
from benchmarks.service_shifts.services import EVALUATED_DAYS, FACTORS, SHARED_LOADS, Found, Kind, rate_text, share_text

_HEADER = ("", *(f"shared load {load:.0%}" for load in SHARED_LOADS))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service_shifts", description=benchmarks.service_shifts.__doc__
    )
    parser.add_argument("--seed", default="1", help="seed of the services")
    parser.add_argument("--simulated", type=int, default=4, help="simulated services of each shape, load and kind")
    parser.add_argument("--replayed", type=int, default=1, help="replayed services of each load and kind")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        drawn = simulated.services(options.seed, options.simulated)
        print("simulated:\n")
        print(table(_HEADER, simulated_rows(list(pool.imap_unordered(simulated.evaluate, drawn)))))
        replays = replayed.services(options.seed, options.replayed)
        print("\nreplayed:\n")
        print(table(_HEADER, replayed_rows(list(pool.imap_unordered(replayed.evaluate, replays)))))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s on {options.processes} processes")
    return 0


def _row(name: str, cell: Callable[[float], str]) -> tuple[str, ...]:
    return (name, *map(cell, SHARED_LOADS))


def _of_factor(found: Iterable[Found], factor: float) -> list[Found]:
    return [each for each in found if each.incident.factor == factor]


def simulated_rows(outcomes: Sequence[simulated.Outcome]) -> list[tuple[str, ...]]:
    """Return the rows of the table about simulated services."""

    def false(kind: Kind, endpoints: float = inf) -> Callable[[float], str]:
        def cell(load: float) -> str:
            chosen = [
                each
                for each in outcomes
                if (each.service.kind, each.service.shared_load) == (kind, load)
                and endpoints in (inf, each.service.endpoints)
            ]
            return rate_text(sum(each.false for each in chosen), EVALUATED_DAYS * len(chosen))

        return cell

    def found(factor: float) -> Callable[[float], str]:
        return lambda load: share_text(
            [one for each in outcomes if each.service.shared_load == load for one in _of_factor(each.found, factor)]
        )

    return [
        _row("false episodes per 1000 service-days", false(Kind.HEALTHY)),
        *(_row(f"… {number} endpoints", false(Kind.HEALTHY, number)) for number in (4, 8, 16)),
        _row("… outside of incidents", false(Kind.WHOLE)),
        _row("… hourly batch", false(Kind.HOURLY_BATCH)),
        _row("… daily batch", false(Kind.DAILY_BATCH)),
        *(_row(f"× {factor:g}: found, median delay", found(factor)) for factor in FACTORS),
    ]


def replayed_rows(outcomes: Sequence[replayed.Outcome]) -> list[tuple[str, ...]]:
    """Return the rows of the table about replayed services."""

    def of(kind: Kind, load: float) -> list[replayed.Outcome]:
        return [each for each in outcomes if (each.service.kind, each.service.shared_load) == (kind, load)]

    def false(name: str, *, per_endpoint: bool = True) -> Callable[[float], str]:
        def cell(load: float) -> str:
            chosen = [*of(Kind.HEALTHY, load), *of(Kind.SINGLE, load)]
            days = sum(EVALUATED_DAYS * (each.service.endpoints if per_endpoint else 1) for each in chosen)
            return rate_text(sum(getattr(each, name) for each in chosen), days)

        return cell

    def found(kind: Kind, name: str, factor: float) -> Callable[[float], str]:
        return lambda load: share_text(
            [one for each in of(kind, load) for one in _of_factor(getattr(each, name), factor)]
        )

    def flags(name: str) -> Callable[[float], str]:
        return lambda load: f"{sum(getattr(each, name) for each in of(Kind.WHOLE, load))}"

    rows = [
        _row("service: false per 1000 service-days", false("false", per_endpoint=False)),
        _row("endpoints: false per 1000 series-days", false("false_endpoints")),
        _row("… common part taken out", false("false_without_common")),
    ]
    for factor in FACTORS:
        rows += [
            _row(f"whole service × {factor:g}: verdict on the service", found(Kind.WHOLE, "found", factor)),
            _row("… first flag of any endpoint", found(Kind.WHOLE, "found_endpoints", factor)),
        ]
    rows += [
        _row("endpoints flagged in these incidents", flags("flags")),
        _row("… common part taken out", flags("flags_without_common")),
    ]
    for factor in (1.5, 2.0, 5.0):
        rows += [
            _row(f"one endpoint × {factor:g}: its flag", found(Kind.SINGLE, "found_endpoints", factor)),
            _row("… common part taken out", found(Kind.SINGLE, "found_without_common", factor)),
        ]
    return rows


if __name__ == "__main__":
    sys.exit(main())
