"""``python -m tools.prometheus_rule``: wrap the alert rules in a PrometheusRule for the Prometheus Operator.

The rules are maintained in ``configs/prometheus/rules``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

_ROOT: Final = Path(__file__).parents[1]
RULES: Final = _ROOT / "configs/prometheus/rules"
TARGET: Final = _ROOT / "configs/kubernetes/prometheusrule.yaml"
_HEAD: Final = "# Made of configs/prometheus/rules by `make kubernetes`; change those and not this.\n"


class _Dumper(yaml.SafeDumper):
    """Dump multi-line text as a literal block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def groups() -> list[dict[str, Any]]:
    """Return the groups of all rule files, in file order."""
    return [
        group
        for file in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    ]


def yaml_text(document: Mapping[str, Any]) -> str:
    """Return a document as YAML that people can read."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def rendered() -> str:
    """Return the manifest as YAML."""
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "tempo-anomaly-exporter",
            "labels": {"app.kubernetes.io/name": "tempo-anomaly-exporter"},
        },
        "spec": {"groups": groups()},
    }
    return _HEAD + yaml_text(manifest)


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
