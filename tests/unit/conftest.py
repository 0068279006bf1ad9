"""What several modules of these tests begin with."""

import pytest

from exporter.config.keys import VARIABLES


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment configures the exporter or sends its requests elsewhere."""
    for variable in (*VARIABLES, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
