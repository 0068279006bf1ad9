"""A second process that judges along: the first judging of a long history is more than one processor does in time.

It holds nothing and opens nothing. Over two pipes that nobody else has it is given some series at a time, and answers
with what it has found about them. It ends when the first process closes its pipe, or ends in whatever way.
"""

import gc
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO, Self, cast

from exporter.evaluation.series import EvaluationResult, EvaluationTask, evaluate_series
from exporter.runtime.logs import LimitedLog
from exporter.store import StoredSeries


class _WorkerLostError(Exception):
    """The second process has ended before it has answered."""


class _ChildProcess:
    """The second process, as the first one sees it."""

    def __init__(self, task: EvaluationTask) -> None:
        """Start it for a task.

        Raises:
            _LostError: it cannot be started.
        """
        self._given: Sequence[StoredSeries] = ()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "exporter.evaluation.worker_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # What a terminal sends to everyone in front of it is for the first process to deal with.
                start_new_session=True,
            )
        except OSError as error:
            raise _WorkerLostError(str(error)) from error
        self._to, self._from = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        try:
            self._send(task)
        except _WorkerLostError:
            self.close()
            raise

    @property
    def given(self) -> Sequence[StoredSeries]:
        """The series that it has not answered about yet."""
        return self._given

    def is_free(self) -> bool:
        """Whether it waits for more series, or for its answer to be taken."""
        return not self._given or bool(select.select([self._from], [], [], 0)[0])

    def give(self, series: Sequence[StoredSeries]) -> None:
        """Have it judge some series.

        Raises:
            _LostError: it has ended.
        """
        self._given = series
        self._send(series)

    def take(self) -> list[EvaluationResult]:
        """What it has found about the series that it was given last; nothing if that was taken before. Waits for it.

        Raises:
            _LostError: it has ended.
        """
        if not self._given:
            return []
        try:
            found: list[EvaluationResult] = pickle.load(self._from)  # noqa: S301 - our own process wrote it
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise _WorkerLostError(str(error)) from error
        self._given = ()
        return found

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._from.close()
        # What could not be written to it stays in the buffer, and closing would try again.
        with suppress(OSError):
            self._to.close()

    def _send(self, message: object) -> None:
        try:
            pickle.dump(message, self._to, pickle.HIGHEST_PROTOCOL)
            self._to.flush()
        except OSError as error:
            raise _WorkerLostError(str(error)) from error


class EvaluationWorker:
    """Judges series beside the caller, once it is started; what it leaves undone is done by the caller."""

    def __init__(self, task: EvaluationTask, quiet_log: LimitedLog) -> None:
        """Prepare for a task."""
        self._task = task
        self._quiet_log = quiet_log
        self._may_start = processors() > 1
        self._process: _ChildProcess | None = None

    def start(self) -> None:
        """Start it, unless it was started before or there is no processor for it."""
        if self._may_start:
            self._may_start = False
            try:
                self._process = _ChildProcess(self._task)
            except _WorkerLostError as error:
                self._lose(error)

    def is_free(self) -> bool:
        """Whether it could be given something."""
        return self._process is not None and self._process.is_free()

    def exchange(self, series: Sequence[StoredSeries]) -> list[EvaluationResult]:
        """Give it some series, or none, and take what it has found about those that it was given before."""
        if self._process is None:
            return [evaluate_series(self._task, stored) for stored in series]
        found: list[EvaluationResult] = []
        undone = [*self._process.given, *series]
        try:
            found = self._process.take()
            undone = list(series)
            if series:
                self._process.give(series)
        except _WorkerLostError as error:
            self._lose(error)
            found += self.exchange(undone)
        return found

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _lose(self, error: _WorkerLostError) -> None:
        self._quiet_log.warning("worker_died", "worker process died; continuing in a single process", error=error)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Be the second process, until the first one has no more to say."""
    try:
        task: EvaluationTask = pickle.load(source)  # noqa: S301 - from the process that has started this one
        # Nothing that is judged refers to itself, so there is no garbage to look for.
        gc.disable()
        while True:
            series = pickle.load(source)  # noqa: S301 - likewise
            pickle.dump([evaluate_series(task, each) for each in series], sink, pickle.HIGHEST_PROTOCOL)
            sink.flush()
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
