"""Fixtures of the end-to-end tests: a Tempo with known traces, and exporter processes."""

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
    """Serves traffic as Tempo does until the end of the test."""

    def __call__(self, traffic: Traffic, /, **options: Any) -> TempoServer: ...


class StartExporter(Protocol):
    """Starts an exporter; after the test it is killed and its log must not show a bug."""

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
