"""``python -m tools.dashboards``: normalise dashboards exported by Grafana.

Sorts keys, indents, and drops fields that differ in every installation, so that diffs stay small.

``python -m tools.dashboards --label NAME [--label NAME] --output DIR`` writes copies of the dashboards about endpoints
for an exporter with ``series.labels``: with a variable for each label, queries that keep series with different labels
apart, and links that pass the labels on.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "grafana/dashboards"
_INSTALLATION_FIELDS: Final = ("id", "version")

_SERVICE_MATCHER: Final = "service_name=~`${service:regex}`"
_GROUPING: Final = re.compile(r"\b(by|on) \((service_name(?:, span_name)?(?:, (?:cause\w*|incident|role|kind))*)\)")
_LEGEND: Final = re.compile(r"\{\{(?:span_name|service_name)\}\}(?!: )")
_BOARD_LINK: Final = re.compile(r"/d/tempo-anomaly-(?:overview|endpoint)\?")
_FROM: Final = re.compile(r"var-service=\$\{(__data\.fields|__field\.labels)\.")


def normalised(exported: str) -> str:
    """Return the JSON of a dashboard in the form in which the repository keeps it."""
    model = {name: value for name, value in json.loads(exported).items() if name not in _INSTALLATION_FIELDS}
    return json.dumps(model, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def with_labels(board: str, labels: Sequence[str]) -> str | None:
    """Return the JSON of a dashboard with further labels of series; None for one that is not about endpoints."""
    model = json.loads(board)
    variables = {variable["name"]: variable for variable in model["templating"]["list"]}
    if "endpoint" not in variables:
        return None
    model = _map_texts(model, lambda text: _labelled(text, labels))
    position = list(variables).index("endpoint") + 1
    model["templating"]["list"][position:position] = [_variable(variables["instance"], label) for label in labels]
    return normalised(json.dumps(model))


def _variable(like: dict[str, Any], label: str) -> dict[str, Any]:
    """Return the variable of a label, which has any value at first."""
    query = f'label_values(tempo_anomaly_baseline_fallback_level{{job=~"$job", instance=~"$instance"}}, {label})'
    return {
        **like,
        "name": label,
        "label": label,
        "description": "A label of series.labels.",
        "definition": query,
        "query": {**like["query"], "query": query},
    }


def _map_texts(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {name: _map_texts(value, change) for name, value in node.items()}
    if isinstance(node, list):
        return [_map_texts(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def _labelled(text: str, labels: Sequence[str]) -> str:
    """Return a query, a legend or a link with further labels; any other text unchanged."""
    if _BOARD_LINK.match(text):
        source = _FROM.search(text)
        passed = (f"${{{name}:queryparam}}" for name in labels)
        if source is not None:
            passed = (f"var-{name}=${{{source[1]}.{name}:percentencode}}" for name in labels)
        return "&".join([text, *passed])
    matchers = "".join(f", {name}=~`${{{name}:regex}}`" for name in labels)
    text = text.replace(_SERVICE_MATCHER, _SERVICE_MATCHER + matchers)
    text = _GROUPING.sub(lambda match: f"{match[1]} ({', '.join([match[2], *labels])})", text)
    return _LEGEND.sub(lambda match: " ".join([match[0], *(f"{{{{{name}}}}}" for name in labels)]), text)


def main(argv: Sequence[str] | None = None) -> None:
    """Normalise the dashboards of the repository, or write copies with labels."""
    parser = argparse.ArgumentParser(prog="python -m tools.dashboards", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--label", action="append", default=[], help="a label of series.labels; repeatable")
    parser.add_argument("--output", type=Path, help="folder for the copies")
    arguments = parser.parse_args(argv)
    if bool(arguments.label) != (arguments.output is not None):
        parser.error("--label and --output belong together")
    for file in sorted(FOLDER.glob("*.json")):
        text = file.read_text(encoding="utf-8")
        if not arguments.label:
            file.write_text(normalised(text), encoding="utf-8")
        elif (copy := with_labels(text, arguments.label)) is not None:
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / file.name).write_text(copy, encoding="utf-8")


if __name__ == "__main__":
    main()
