"""``python -m benchmarks [--quick] [NAME ...]``: measures, and prints one Markdown table."""

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

NAMES: Final = ("backfill", "dense", "poll", "scrape", "historian", "restart", "memory", "store")
"""The benchmarks, each a module of this package with a function ``measure``."""

CIRCUMSTANCES: Final = (
    "benchmark",
    "took",
    "cores that others kept busy meanwhile",
    f"{machine.PACE_STEPS / 1e6:g} million steps of a loop, before / after",
)
"""What is told about how each was measured."""


class Benchmark(Protocol):
    """What a module of a benchmark offers."""

    def measure(self, context: Context) -> Iterable[Figure]:
        """Measure, figure by figure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for."""
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
    judged = [figure.kept for figure in figures if figure.kept is not None]
    print(f"\n{judged.count(False)} of {len(judged)} budgets missed")
    if arguments.quick:
        print("Nothing of it counts: at these sizes what is measured is mostly how long a process takes to start.")
    return 0


def _context(folder: Path, arguments: argparse.Namespace) -> Context:
    context = Context.quick(folder) if arguments.quick else Context(folder)
    given = {name: given for name in ("traces", "series") if (given := getattr(arguments, name)) is not None}
    return replace(context, **given)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure against the design's budgets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure (all): {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to show that everything works")
    parser.add_argument("--traces", type=int, help="traces in a week, for the backfill (1,000,000)")
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
