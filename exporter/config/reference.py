"""Documents generated from the schema: the annotated example and the reference of all keys.

``python -m exporter.config.reference example`` prints ``configs/exporter.yaml``; ``... table`` prints the tables of
``docs/configuration.md``, which belong between its two markers.
"""

import sys
import textwrap
from typing import Final

import yaml

from exporter.config.keys import ENTRIES, Key

BEGIN: Final = "<!-- begin: python -m exporter.config.reference table -->"
END: Final = "<!-- end -->"

_EXAMPLE_HEAD: Final = """\
# Configuration of tempo-anomaly-exporter: every key with its default. Keep only what you change.
#
# Every key is also an environment variable (dots to underscores, upper case: POLLING_BACKFILL_DURATION), and the
# environment overrides this file. Durations have the notation of Prometheus: 90s, 15m, 168h, 7d, 1h30m.
"""


def flow(value: object) -> str:
    """Format a value as YAML on one line."""
    if value == "":
        return '""'
    if isinstance(value, tuple):
        return f"[{', '.join(flow(item) for item in value)}]"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def example() -> str:
    """Return the annotated example: every key with its description and default."""
    lines = [_EXAMPLE_HEAD]
    for entry in ENTRIES:
        indent = "  " * (len(entry.path) - 1)
        if not isinstance(entry, Key) and not indent:
            lines.append("")
        lines += textwrap.wrap(entry.description, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        default = f" {flow(entry.default)}" if isinstance(entry, Key) else ""
        lines.append(f"{indent}{entry.path[-1]}:{default}")
    return "\n".join(lines) + "\n"


def table() -> str:
    """Return the reference: a table for each section."""
    lines = []
    section: str | None = None
    for entry in ENTRIES:
        top = entry.path[0] if len(entry.path) > 1 or not isinstance(entry, Key) else "General"
        if top != section:
            section = top
            lines += ["", f"### {top}", ""]
            if not isinstance(entry, Key):
                lines += [entry.description, ""]
            lines += ["| key | environment variable | default | meaning |", "| --- | --- | --- | --- |"]
        if isinstance(entry, Key):
            cells = (f"`{entry.dotted}`", f"`{entry.variable}`", f"`{flow(entry.default)}`", entry.description)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines[1:]) + "\n"


if __name__ == "__main__":
    documents = {"example": example, "table": table}
    if len(sys.argv) != 2 or sys.argv[1] not in documents:
        sys.exit("usage: python -m exporter.config.reference example|table")
    sys.stdout.write(documents[sys.argv[1]]())
