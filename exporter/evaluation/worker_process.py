"""Processes that evaluate a long history, which takes one processor too long.

A worker opens nothing and keeps no state. It receives batches of series over a pipe, returns one result for each, and
exits when the pipe is closed, however the parent process ends. It evaluates with arrays, which takes half the time; so
the parent only reads and writes meanwhile.
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

_MAX_PROCESSES: Final = 2
"""With more, the parent process, which reads and writes the database, would be the slowest."""
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

    def fileno(self) -> int:
        """File that becomes readable as soon as the process returns results or ends; see :func:`select.select`."""
        return self._from.fileno()

    def send_batch(self, batch: Sequence[StoredSeries]) -> None:
        """Let the process evaluate some series.

        Raises:
            _WorkerLostError: it has ended.
        """
        self._send(batch)
        self._batch = batch

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


class EvaluationWorkers:
    """Evaluates series in other processes once started. Without these, the caller does the work itself."""

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
            quiet_log: receives the loss of a process.
            processors: processors that this process may use, detected by default; with one, nothing is started.
            command: the command line of a process.
        """
        self._task = task
        self._quiet_log = quiet_log
        self._command = command
        processors = count_processors() if processors is None else processors
        self._startable = min(processors, _MAX_PROCESSES) if processors > 1 else 0
        self._processes: list[_ChildProcess] = []

    def start(self) -> None:
        """Start the processes, unless they were started before or there is no processor for them."""
        while self._startable:
            self._startable -= 1
            try:
                self._processes.append(_ChildProcess(self._task, self._command))
            except _WorkerLostError as error:
                self._startable = 0
                self._warn(error)

    @property
    def pids(self) -> Sequence[int]:
        """Ids of the processes."""
        return [process.pid for process in self._processes]

    @property
    def is_running(self) -> bool:
        """Whether there is any process."""
        return bool(self._processes)

    def exchange(self, batch: Sequence[StoredSeries]) -> list[EvaluationResult]:
        """Hand over a batch as soon as a process can take it, and return the results of the one that it had before.

        What a lost process leaves is evaluated here.
        """
        results: list[EvaluationResult] = []
        while self._processes:
            process = self._free_process()
            results += self._received(process)
            if self._is_sent(process, batch):
                return results
        return results + self._evaluated(batch)

    def finish(self) -> list[EvaluationResult]:
        """Wait for all processes, and return the results of all batches that have not been returned yet."""
        results: list[EvaluationResult] = []
        for process in list(self._processes):
            results += self._received(process)
        return results

    def close(self) -> None:
        """Kill the processes, even if they are busy."""
        for process in self._processes:
            process.close()
        self._processes = []

    def _free_process(self) -> _ChildProcess:
        """Wait for a process that can take a batch."""
        for process in self._processes:
            if not process.batch:
                return process
        ready, _, _ = select.select(self._processes, [], [])
        found: _ChildProcess = ready[0]
        return found

    def _received(self, process: _ChildProcess) -> list[EvaluationResult]:
        """Return the results of the batch of a process, which is given up if it is lost."""
        try:
            return process.receive()
        except _WorkerLostError as error:
            self._lose(process, error)
            return self._evaluated(process.batch)

    def _is_sent(self, process: _ChildProcess, batch: Sequence[StoredSeries]) -> bool:
        """Hand over a batch; returns whether the process has taken it."""
        if process not in self._processes:
            return False
        try:
            process.send_batch(batch)
        except _WorkerLostError as error:
            self._lose(process, error)
            return False
        return True

    def _evaluated(self, batch: Sequence[StoredSeries]) -> list[EvaluationResult]:
        return [evaluate_series(self._task, stored) for stored in batch]

    def _lose(self, process: _ChildProcess, error: _WorkerLostError) -> None:
        self._warn(error)
        self._processes.remove(process)
        process.close()

    def _warn(self, error: _WorkerLostError) -> None:
        self._quiet_log.warning("worker_died", "worker process died; continuing without it", error=error)

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
    """Run as a worker process until the parent closes the pipe."""
    # There are as many processes as processors already. Read by numpy when it is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # The parent must not load numpy, which takes 20 MB.
    from exporter.detection.arrays.history import advance_with_arrays  # noqa: PLC0415

    try:
        task: EvaluationTask = pickle.load(source)  # noqa: S301 - the parent process wrote it
        # The evaluation creates no reference cycles, so collecting them would only cost time.
        gc.disable()
        while True:
            batch = pickle.load(source)  # noqa: S301 - the parent process wrote it
            results = [evaluate_series(task, stored, advance_with_arrays) for stored in batch]
            pickle.dump(results, sink, pickle.HIGHEST_PROTOCOL)
            sink.flush()
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
