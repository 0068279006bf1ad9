"""``python -m tools.dashboards``: dashboards that Grafana has exported, in the form in which they are kept.

Sorted and indented, without what is different in every Grafana, so that a later change is a small one.
"""

import json
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "grafana/dashboards"
_OF_ONE_INSTALLATION: Final = ("id", "version")


def normalised(exported: str) -> str:
    """A dashboard as it is kept."""
    model = {name: value for name, value in json.loads(exported).items() if name not in _OF_ONE_INSTALLATION}
    return json.dumps(model, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.json")):
        file.write_text(normalised(file.read_text(encoding="utf-8")), encoding="utf-8")
