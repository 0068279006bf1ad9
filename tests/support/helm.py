"""Helm, from the package helm-python-sdk, which contains Helm's own engine as a library.

It runs in a process of its own: the library brings the threads of the Go runtime, and a process with threads must not
fork, as other tests do. Run as a program, this module answers requests, one line of JSON each.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

CHART: Final = Path(__file__).parents[2] / "configs/helm"


class HelmError(Exception):
    """Helm rejected the values, or a template failed."""


class Helm:
    """A process that runs Helm on the chart of the repository."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It ends when its input does.
        self._process.communicate(timeout=60)

    def render(self, values: Mapping[str, Any], *, release: str) -> dict[str, str]:
        """Return what the templates of the chart render to, by the name of the template; raises HelmError."""
        answer = self._ask(values=values, release=release)
        if "error" in answer:
            raise HelmError(answer["error"])
        return {Path(name).name: text for name, text in answer.items()}

    def lint(self) -> list[str]:
        """Return what ``helm lint --strict`` reports about the chart."""
        report = self._ask()
        return [*report["errors"], *(message["error"] for message in report["messages"])]

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _answer(request: dict[str, Any]) -> Mapping[str, Any]:
    # Only the process that is started for it loads the library.
    import helm_python

    if "release" not in request:
        return helm_python.lint(CHART, strict=True)
    try:
        with helm_python.Chart.load(CHART) as chart:
            return chart.render(request["values"], name=request["release"], namespace="monitoring")
    except helm_python.HelmError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()
