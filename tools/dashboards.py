"""``python -m tools.dashboards``: normalise dashboards exported by Grafana.

Sorts keys, indents, and drops fields that differ in every installation, so that diffs stay small.
"""

import json
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "grafana/dashboards"
_INSTALLATION_FIELDS: Final = ("id", "version")


def normalised(exported: str) -> str:
    """Return the JSON of a dashboard in the form in which the repository keeps it."""
    model = {name: value for name, value in json.loads(exported).items() if name not in _INSTALLATION_FIELDS}
    return json.dumps(model, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.json")):
        file.write_text(normalised(file.read_text(encoding="utf-8")), encoding="utf-8")
