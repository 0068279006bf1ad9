"""A second process that shares the first evaluation of a long history, which takes one processor too long.

The worker opens nothing and keeps no state. It receives batches of series over a pipe, returns one result for each,
and exits when the pipe is closed, however the parent process ends.
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
from typing import BinaryIO, Final, Self, cast

from exporter.evaluation.series import EvaluationResult, EvaluationTask, evaluate_series
from exporter.runtime.logs import LimitedLog
from exporter.store import StoredSeries

_COMMAND: Final = (sys.executable, "-m", "exporter.evaluation.worker_process")


class _WorkerLostError(Exception):
    """The worker process ended before it returned its results."""


class _ChildProcess:
    """The worker process, seen from the parent."""

    def __init__(self, task: EvaluationTask, command: Sequence[str]) -> None:
        """Start the process.

        Raises:
            _WorkerLostError: it cannot be started.
        """
        self._batch: Sequence[StoredSeries] = ()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C in a terminal reaches the whole session; the parent alone handles it.
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
    def pid(self) -> int:
        return self._process.pid

    @property
    def batch(self) -> Sequence[StoredSeries]:
        """The series whose results have not been received yet."""
        return self._batch

    def is_free(self) -> bool:
        """Whether the process waits for a batch, or for its results to be received."""
        return not self._batch or bool(select.select([self._from], [], [], 0)[0])

    def send_batch(self, batch: Sequence[StoredSeries]) -> None:
        """Let the process evaluate some series.

        Raises:
            _WorkerLostError: it has ended.
        """
        self._batch = batch
        self._send(batch)

    def receive(self) -> list[EvaluationResult]:
        """Wait for the results of the last batch; empty if they were received already.

        Raises:
            _WorkerLostError: it has ended.
        """
        if not self._batch:
            return []
        try:
            results: list[EvaluationResult] = pickle.load(self._from)  # noqa: S301 - our own process wrote it
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise _WorkerLostError(str(error)) from error
        self._batch = ()
        return results

    def close(self) -> None:
        """Kill the process, even if it is busy."""
        self._process.kill()
        self._process.wait()
        self._from.close()
        # Unsent data stays in the buffer, and closing tries to write it again.
        with suppress(OSError):
            self._to.close()

    def _send(self, message: object) -> None:
        try:
            pickle.dump(message, self._to, pickle.HIGHEST_PROTOCOL)
            self._to.flush()
        except OSError as error:
            raise _WorkerLostError(str(error)) from error


class EvaluationWorker:
    """Evaluates series in a second process once started. Without the process, the caller does the work itself."""

    def __init__(
        self,
        task: EvaluationTask,
        quiet_log: LimitedLog,
        *,
        processors: int | None = None,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        """Prepare for a task; nothing is started yet.

        Args:
            task: what to do with every series.
            quiet_log: receives the loss of the process.
            processors: processors that this process may use, detected by default; with one, nothing is started.
            command: the command line of the process.
        """
        self._task = task
        self._quiet_log = quiet_log
        self._command = command
        self._may_start = (count_processors() if processors is None else processors) > 1
        self._process: _ChildProcess | None = None

    def start(self) -> None:
        """Start the process, unless it was started before or there is no processor for it."""
        if self._may_start:
            self._may_start = False
            try:
                self._process = _ChildProcess(self._task, self._command)
            except _WorkerLostError as error:
                self._lose(error)

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        return None if self._process is None else self._process.pid

    def is_free(self) -> bool:
        """Whether there is a process that can take a batch."""
        return self._process is not None and self._process.is_free()

    def exchange(self, batch: Sequence[StoredSeries]) -> list[EvaluationResult]:
        """Hand over a batch, which may be empty, and return the results of the batch before.

        If the process is lost, both batches are evaluated here.
        """
        if self._process is None:
            return [evaluate_series(self._task, stored) for stored in batch]
        results: list[EvaluationResult] = []
        unfinished = [*self._process.batch, *batch]
        try:
            results = self._process.receive()
            unfinished = list(batch)
            if batch:
                self._process.send_batch(batch)
        except _WorkerLostError as error:
            self._lose(error)
            results += self.exchange(unfinished)
        return results

    def close(self) -> None:
        """Kill the process, even if it is busy."""
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


def count_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Run as the worker process until the parent closes the pipe."""
    try:
        task: EvaluationTask = pickle.load(source)  # noqa: S301 - the parent process wrote it
        # The evaluation creates no reference cycles, so collecting them would only cost time.
        gc.disable()
        while True:
            batch = pickle.load(source)  # noqa: S301 - the parent process wrote it
            pickle.dump([evaluate_series(task, stored) for stored in batch], sink, pickle.HIGHEST_PROTOCOL)
            sink.flush()
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
