"""The shipped configuration of Prometheus and Alertmanager."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.paths import REPOSITORY

PROMETHEUS: Final = REPOSITORY / "configs/prometheus/prometheus.yml"
RULES: Final = sorted((REPOSITORY / "configs/prometheus/rules").glob("*.yml"))
ALERTMANAGER: Final = REPOSITORY / "configs/alertmanager/alertmanager.yml"

Document = dict[str, Any]


def load(file: Path) -> Document:
    """Load a YAML file whose top level is a mapping."""
    document = yaml.safe_load(file.read_text("utf-8"))
    assert isinstance(document, dict), file
    return document


def rules(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the shipped rules of a kind, ``alert`` or ``record``, by name."""
    found = [rule for file in RULES for group in load(file)["groups"] for rule in group["rules"] if kind in rule]
    named = {rule[kind]: rule for rule in found}
    assert len(named) == len(found), "duplicate rule name"
    return named
