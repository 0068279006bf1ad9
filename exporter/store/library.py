"""The library for tables and transactions, loaded without numpy.

sqlite-utils loads numpy wherever it is installed, for types of numbers that nothing here stores. It would take 20 MB of
memory and a tenth of a second in every process; only the worker processes of the evaluation need it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_NUMPY: Final = "numpy"


@contextmanager
def _without_numpy() -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    loaded = modules.get(_NUMPY)
    # An import of it then fails as if it were not installed.
    modules[_NUMPY] = None
    try:
        yield
    finally:
        del modules[_NUMPY]
        if loaded is not None:
            modules[_NUMPY] = loaded


with _without_numpy():
    from sqlite_utils import Database

__all__ = ["Database"]
