"""What holds for all tests."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Before any module of the exporter is imported: locks then check the order in which threads acquire them.
os.environ["EXPORTER_CHECK_LOCKS"] = "1"

# How long an example takes depends on what else the machine is doing.
settings.register_profile("project", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


def pytest_collection_finish() -> None:
    """Exclude the modules and the collected tests from garbage collection, which would scan them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _stores_in_memory_are_closed() -> Iterator[None]:
    """Close what a test has opened in memory: from Python 3.13 on, an SQLite connection that is not closed warns."""
    # Imported here, after the variables above are set.
    from exporter.store.connection import Connection

    opened: list[Connection] = []
    in_memory = Connection.in_memory

    def remembered() -> Connection:
        connection = in_memory()
        opened.append(connection)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "in_memory", remembered)
        yield
    for connection in opened:
        connection.close()
