"""What the end-to-end tests stand on: a Tempo over known traces, and exporters that do not outlive their test."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from tests.support.processes import ExporterProcess, Settings
from tests.support.traffic import Traffic


class StartTempo(Protocol):
    """Serves some traffic as Tempo would, until the test is over."""

    def __call__(self, traffic: Traffic, /, **options: Any) -> TempoServer: ...


class StartExporter(Protocol):
    """Starts an exporter, which is killed after the test if it still runs, and must not have shown a defect."""

    def __call__(
        self, configuration: Settings, /, *arguments: str, directory: Path | None = None
    ) -> ExporterProcess: ...


@pytest.fixture
def tempo() -> Iterator[StartTempo]:
    with ExitStack() as servers:

        def start(traffic: Traffic, /, **options: Any) -> TempoServer:
            return servers.enter_context(TempoServer(traffic.store(), ApiOptions(**options)))

        yield start


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[StartExporter]:
    with ExitStack() as processes:

        def start(configuration: Settings, /, *arguments: str, directory: Path | None = None) -> ExporterProcess:
            return processes.enter_context(ExporterProcess(directory or tmp_path, configuration, *arguments))

        yield start
