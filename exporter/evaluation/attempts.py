"""When something about a series is looked for in Tempo, how often it was, and whether it is known by now."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import inf

from exporter.model.span import SeriesKey


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempts about one subject so far.

    Attributes:
        subject: what distinguishes it from another one of the same series, such as its beginning.
        number: how many there were, with one that is under way.
        due_at: when the next one is due, monotonic seconds; infinite if there will be none.
        is_settled: whether one of them had a result that stands.
    """

    subject: object
    number: int = 0
    due_at: float = -inf
    is_settled: bool = False


class Attempts:
    """The attempts about one subject of each series. :meth:`of` is thread-safe; the others belong to one thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Start without attempts.

        Args:
            monotonic: seconds that never jump.
        """
        self._monotonic = monotonic
        self._latest: dict[SeriesKey, Attempt] = {}

    def of(self, key: SeriesKey, subject: object) -> Attempt:
        """Return the attempts about a subject; those about an earlier one of the series do not count."""
        latest = self._latest.get(key)
        return latest if latest is not None and latest.subject == subject else Attempt(subject)

    def has(self, key: SeriesKey, subject: object) -> bool:
        """Whether anything is known of a subject."""
        return key in self._latest and self._latest[key].subject == subject

    def retain(self, keys: Collection[SeriesKey]) -> None:
        """Forget all other series."""
        for key in [key for key in self._latest if key not in keys]:
            del self._latest[key]

    def begin(self, key: SeriesKey, subject: object, retry_seconds: float) -> int:
        """Count an attempt before it is made, so that what breaks it is not looked for again without a pause.

        Args:
            key: the series.
            subject: its subject.
            retry_seconds: when the next one is due if this one does not end.

        Returns:
            Its number, from 1.
        """
        before = self.of(key, subject)
        self._latest[key] = replace(before, number=before.number + 1, due_at=self._monotonic() + retry_seconds)
        return before.number + 1

    def end(self, key: SeriesKey, subject: object, seconds: float, *, is_settled: bool) -> None:
        """Take the end of an attempt, or what was known without one.

        Args:
            key: the series.
            subject: its subject.
            seconds: when the next one is due; infinite for never.
            is_settled: whether the result stands.
        """
        due_at = self._monotonic() + seconds
        self._latest[key] = replace(self.of(key, subject), due_at=due_at, is_settled=is_settled)
