"""``python -m benchmarks [--quick] [NAME ...]``: measure and print a Markdown table of the figures."""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from benchmarks import machine
from benchmarks.context import Context
from benchmarks.report import HEADER, Figure, table

NAMES: Final = ("backfill", "dense", "poll", "tracker", "scrape", "evaluation", "restart", "pages", "memory", "store")
"""Modules of this package with a function ``measure``."""

CIRCUMSTANCES: Final = (
    "benchmark",
    "took",
    "cores busy with other processes",
    f"{machine.PACE_STEPS / 1e6:g} million steps of a loop, before / after",
)
"""Header of the table of measuring conditions."""


class Benchmark(Protocol):
    """The interface of a benchmark module."""

    def measure(self, context: Context) -> Iterable[Figure]:
        """Yield the figures as they are measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks named on the command line, or all."""
    arguments = _arguments(argv)
    figures: list[Figure] = []
    circumstances: list[tuple[str, str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        context = _context(Path(folder), arguments)
        for name in arguments.names or NAMES:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            benchmark = cast("Benchmark", import_module(f"benchmarks.{name}"))
            with machine.Disturbance() as disturbance:
                for figure in benchmark.measure(context):
                    print("  " + "  ".join(filter(None, figure.row())), file=sys.stderr, flush=True)
                    figures.append(figure)
            paces = " / ".join(f"{pace * 1000:.0f} ms" for pace in disturbance.paces)
            circumstances.append((name, f"{disturbance.seconds:.0f} s", f"{disturbance.others:.1f}", paces))
    print(f"{machine.description()}\n")
    print(table(HEADER, (figure.row() for figure in figures)))
    print()
    print(table(CIRCUMSTANCES, circumstances))
    kept = [figure.is_kept for figure in figures if figure.is_kept is not None]
    print(f"\n{kept.count(False)} of {len(kept)} budgets missed")
    if arguments.quick:
        print("Sizes of --quick: the figures mostly measure how long processes take to start.")
    return 0


def _context(folder: Path, arguments: argparse.Namespace) -> Context:
    context = Context.quick(folder) if arguments.quick else Context(folder)
    sizes = {name: size for name in ("traces", "series") if (size := getattr(arguments, name)) is not None}
    return replace(context, **sizes)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure against the budgets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks to run (all): {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, only to check that the benchmarks work")
    parser.add_argument("--traces", type=int, help="traces in the week that the backfill reads (1,000,000)")
    parser.add_argument("--series", type=_sizes, metavar="N,...", help="numbers of series (100,1000,10000)")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return arguments


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(size) for size in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
