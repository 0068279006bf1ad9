"""``python -m tests.support.reference``: regenerate the references that are held to the code.

Writes ``configs/exporter.yaml``, the tables of keys in ``docs/configuration.md`` and ``docs/api.md``, type, labels and
meaning of each metric in ``docs/metrics.md``, and the generated files of the Helm chart.
"""

import re
from collections.abc import Mapping

from prometheus_client.metrics_core import Metric

from exporter.config.reference import BEGIN, END, example, table
from exporter.web.api.keys import KEYS
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage
from tools import helm_chart


def metric_row(name: str, family: Metric) -> list[str]:
    """The cells that ``docs/metrics.md`` has for a metric: name, type, labels, meaning."""
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    return [f"`{name}`", family.type, ", ".join(f"`{label}`" for label in sorted(labels)), family.documentation]


def with_metrics(document: str, families: Mapping[str, Metric]) -> str:
    """Fill in the rows of the tables of metrics; which metric stands in which table is left to people."""

    def filled(row: re.Match[str]) -> str:
        family = families.get(row[1])
        return f"| {' | '.join(metric_row(row[1], family))} |".replace(" |  | ", " | | ") if family else row[0]

    return re.sub(
        r"^\| `(tempo_anomaly_\w+)` \| (?:gauge|counter|histogram) \|.*\|$", filled, document, flags=re.MULTILINE
    )


def with_keys(document: str) -> str:
    """Fill in the table of keys."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def with_api_keys(document: str) -> str:
    """Fill in the table of the keys of responses, which ends the document."""
    before, heading, _ = document.partition("| key | meaning |\n| --- | --- |\n")
    assert heading
    rows = (f"| `{key}` | {meaning} |\n" for key, meaning in sorted(KEYS.items()))
    return f"{before}{heading}{''.join(rows)}"


def main() -> None:
    """Write the files."""
    (REPOSITORY / "configs/exporter.yaml").write_text(example(), "utf-8")
    keys = REPOSITORY / "docs/configuration.md"
    keys.write_text(with_keys(keys.read_text("utf-8")), "utf-8")
    api = REPOSITORY / "docs/api.md"
    api.write_text(with_api_keys(api.read_text("utf-8")), "utf-8")
    metrics = REPOSITORY / "docs/metrics.md"
    metrics.write_text(with_metrics(metrics.read_text("utf-8"), WholePage.full().families()), "utf-8")
    helm_chart.main()


if __name__ == "__main__":
    main()
