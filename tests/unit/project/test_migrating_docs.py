"""docs/migrating.md: its configuration is valid, and the keys, metrics and API fields that it names exist."""

import re
from pathlib import Path

import pytest

from exporter.config import ConfigError, load_config
from exporter.config.keys import KEYS
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage

PAGE = (REPOSITORY / "docs/migrating.md").read_text("utf-8")
REMOVED = ("redis", "window_size", "dedup", "http", "polling.baseline_interval")

OLD_FILE = """\
timezone: Asia/Taipei
redis: {host: 127.0.0.1, port: 6379, password: "", db: 0}
tempo: {url: "http://localhost:3200", auth_token: ""}
stats: {factor: 2.0, k: 10, min_samples: 50, mad_epsilon: 1ms}
polling: {tempo_interval: 15s, tempo_lookback: 120s, baseline_interval: 30s}
window_size: 1000
dedup: {ttl: 6h}
http: {port: 8080, timeout: 15s}
"""


def test_the_remaining_file_is_a_valid_configuration(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "old.yaml"
    file.write_text(block)
    assert load_config(file, {}).timezone == "Asia/Taipei"


def test_exactly_the_listed_keys_of_an_old_file_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(OLD_FILE)
    with pytest.raises(ConfigError) as refused:
        load_config(file, {})
    message = str(refused.value)
    assert [key for key in REMOVED if key not in message] == []
    assert len(re.findall("is not a known key", message)) == len(REMOVED)
    assert all(f"`{key}`" in PAGE for key in REMOVED)


def test_named_keys_and_metrics_exist() -> None:
    ours = re.findall(r"`((?:storage|web|calendar|tempo|series|detection)\.[a-z_]+)`", PAGE)
    assert ours
    assert set(ours) <= {".".join(path) for path in KEYS}
    named = set(re.findall(r"`(tempo_anomaly_\w+)", PAGE))
    assert named
    assert named <= WholePage.full().families().keys()


def test_named_api_fields_exist() -> None:
    api = (REPOSITORY / "docs/api.md").read_text("utf-8")
    known = set(re.findall(r"`(\w+)`", api))
    rows = re.findall(r"^\| .+ \| (.+) \|$", PAGE.partition("## The JSON")[2], re.MULTILINE)
    named = {
        part
        for cell in rows
        for path in re.findall(r"`([a-z_0-9.\[\]]+)`", cell)
        for part in path.replace("[]", "").split(".")
    }
    assert {"outlier", "pooled_hours", "level_by_hour", "no_shift_verdict"} <= named
    assert named - known <= {"null", "320ms", "everything"}
