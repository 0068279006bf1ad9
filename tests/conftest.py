"""What holds for all tests."""

import gc
import os

from hypothesis import settings

# Before any module of the exporter is imported: locks then check the order in which threads acquire them.
os.environ["EXPORTER_CHECK_LOCKS"] = "1"

# How long an example takes depends on what else the machine is doing.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_finish() -> None:
    """Exclude the modules and the collected tests from garbage collection, which would scan them again and again."""
    gc.collect()
    gc.freeze()
