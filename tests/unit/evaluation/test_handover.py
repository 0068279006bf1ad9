from dataclasses import dataclass, field

from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable
from exporter.evaluation.handover import BaselineHandover
from exporter.evaluation.snapshot import HistoryFacts
from tests.support.samples import NOON


@dataclass
class Tables:
    """A source whose table arrives when a test says so."""

    name: int
    is_there: bool = True
    asked: list[float] = field(default_factory=list)

    def table(self, now: float) -> BaselineTable:
        self.asked.append(now)
        return BaselineTable(self.name, {}) if self.is_there else EMPTY_TABLE

    def has_table(self, now: float) -> bool:
        return self.is_there

    def facts(self) -> HistoryFacts:
        return HistoryFacts(windows=self.name)


def test_the_previous_tables_stay_until_the_new_one_is_there() -> None:
    old, new = Tables(1), Tables(2, is_there=False)
    adopted: list[str] = []
    handover = BaselineHandover(old)
    handover.replace(new, lambda: adopted.append("new"))
    assert handover.table(NOON).start == 1
    assert (handover.facts().windows, adopted) == (1, [])
    new.is_there = True
    assert handover.table(NOON).start == 2
    assert (handover.facts().windows, adopted) == (2, ["new"])
    assert handover.table(NOON).start == 2
    assert adopted == ["new"], "once"


def test_without_any_table_the_new_source_is_used_at_once() -> None:
    handover = BaselineHandover(Tables(1, is_there=False))
    new = Tables(2, is_there=False)
    handover.replace(new, lambda: None)
    handover.table(NOON)
    assert new.asked == [NOON]


def test_the_last_replacement_counts() -> None:
    handover = BaselineHandover(Tables(1))
    adopted: list[str] = []
    handover.replace(Tables(2), lambda: adopted.append("second"))
    handover.replace(Tables(3), lambda: adopted.append("third"))
    assert handover.table(NOON).start == 3
    assert adopted == ["third"]
