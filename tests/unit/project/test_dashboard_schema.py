"""The dashboards against Grafana's published schema: the models of grafana-foundation-sdk know every field.

A model drops what it does not know, so what is lost between parsing a dashboard and writing it again is not in the
schema.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.dashboards import BOARDS, Board

UNPUBLISHED = {
    # Grafana writes the query of a variable twice, and shows this one in its list of variables.
    "templating/list/definition",
    # The schema has one kind of annotation query, and leaves fields of data sources such as Prometheus out.
    *(f"annotations/list/{name}" for name in ("step", "tagKeys", "textFormat", "titleFormat", "useValueForTime")),
    *(f"annotations/list/target/{name}" for name in ("datasource", "expr", "interval", "refId")),
    # The options "Connect null values" and "Disconnect values".
    *(f"panels/fieldConfig/defaults/custom/{name}" for name in ("insertNulls", "spanNulls")),
}
"""Fields that Grafana writes and its schema lacks."""


@pytest.fixture(scope="module", autouse=True)
def _models_of_panels_and_queries() -> None:
    register_default_plugins()


def changed(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Yield the places at which a piece of JSON differs; items of lists have no place of their own."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            below = f"{place}/{name}".removeprefix("/")
            if name in before and name in after:
                yield from changed(before[name], after[name], below)
            elif name in before:
                yield below
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from changed(one, other, place)
    elif before != after:
        yield place


def unknown_fields(model: dict[str, Any]) -> set[str]:
    """Return the fields of a dashboard that are not in the schema, or not of its type."""
    return set(changed(model, json.loads(JSONEncoder().encode(Dashboard.from_json(copy.deepcopy(model))))))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_schema_has_every_field(board: Board) -> None:
    assert unknown_fields(board.model) <= UNPUBLISHED


def test_every_unpublished_field_is_in_use() -> None:
    assert set().union(*(unknown_fields(board.model) for board in BOARDS)) == UNPUBLISHED


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((), "titel"),
        (("templating", "list", 0), "lable"),
        (("panels", 1), "descripton"),
        (("panels", 1, "options"), "legnd"),
        (("panels", 1, "fieldConfig", "defaults"), "units"),
        (("panels", 1, "targets", 0), "exp"),
    ],
)
def test_a_misspelled_field_is_found(place: tuple[str | int, ...], name: str) -> None:
    model = copy.deepcopy(BOARDS[0].model)
    # A row is first.
    assert model["panels"][1]["targets"]
    node: Any = model
    for step in place:
        node = node[step]
    node[name] = "x"
    path = "/".join(step for step in (*place, name) if isinstance(step, str))
    assert unknown_fields(model) - UNPUBLISHED == {path}
