"""The names of a series as labels: cut to the length that Prometheus accepts, and still distinct.

Prometheus drops a whole scrape if a label value is longer than ``label_value_length_limit``, in bytes of UTF-8; large
providers set it to 1023. Names of spans can be much longer.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from exporter.model.span import SeriesKey, encodable

_HASH_BYTES: Final = 6
"""Of ten thousand names that differ only behind the cut, two share 48 bits in one of five million cases."""


def cut_mark(name: str) -> str:
    """Return what replaces the rest of a name that is cut: an ellipsis and a hash of the whole name."""
    return "…" + blake2b(encodable(name).encode(), digest_size=_HASH_BYTES).hexdigest()


_MARK_CHARACTERS: Final = len(cut_mark(""))


def shortened(name: str, max_bytes: int) -> str:
    """Return a name as text of at most so many bytes of UTF-8: a longer one is cut and ends with its mark.

    Args:
        name: the name.
        max_bytes: at least as long as the mark, 15 bytes.
    """
    text = encodable(name)
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    mark = cut_mark(name)
    # The cut may be within a character, of which nothing is kept.
    return encoded[: max_bytes - len(mark.encode())].decode("utf-8", "ignore") + mark


def is_shortened(name: str, given: str) -> bool:
    """Whether a text is a name that was cut to any length by :func:`shortened`."""
    start, mark = given[:-_MARK_CHARACTERS], given[-_MARK_CHARACTERS:]
    return mark.startswith("…") and encodable(name).startswith(start) and mark == cut_mark(name)


class AmbiguousSeriesError(Exception):
    """Several series have the given names, and differ in labels.

    Attributes:
        matching: those series.
    """

    def __init__(self, matching: Sequence[SeriesKey]) -> None:
        super().__init__(f"{len(matching)} series have these names")
        self.matching = matching


@dataclass(frozen=True, slots=True)
class LabelNames:
    """Maps the names of series to label values.

    Attributes:
        max_bytes: maximum length of a label value in UTF-8, at least 64.
        names: the names of the labels of ``series.labels``.
    """

    max_bytes: int = 1000
    names: tuple[str, ...] = ()

    def of(self, key: SeriesKey) -> SeriesKey:
        """Return the names as labels have them."""
        labels = tuple((name, self._cut(value)) for name, value in key.labels) if key.labels else ()
        return SeriesKey(self._cut(key.service_name), self._cut(key.span_name), labels)

    def service(self, name: str) -> str:
        """Return the name of a service as labels have it."""
        return self._cut(name)

    def value(self, text: str) -> str:
        """Return another text as labels have it."""
        return self._cut(text)

    def is_name(self, name: str, given: str) -> bool:
        """Whether this is a name, as a whole, as labels have it, or cut to any other length."""
        return given in (name, self._cut(name)) or is_shortened(name, given)

    def is_named(self, key: SeriesKey, given: SeriesKey) -> bool:
        """Whether these are the names of a series, as a whole or as labels have them.

        Labels that are not given may have any value; one that is given as empty must be absent.
        """
        return (
            self.is_name(key.service_name, given.service_name)
            and self.is_name(key.span_name, given.span_name)
            and self.has_labels(key, given.labels)
        )

    def has_labels(self, key: SeriesKey, given: Iterable[tuple[str, str]]) -> bool:
        """Whether a series has labels, as a whole or as they are cut; one given as empty must be absent."""
        values = dict(key.labels)
        return all(self.is_name(values.get(name, ""), value) for name, value in given)

    def all_names(self, names: Iterable[str]) -> set[str]:
        """Return names as a whole and as labels have them."""
        return {each for name in names for each in (name, self._cut(name))}

    def find(self, given: SeriesKey, known: Collection[SeriesKey]) -> SeriesKey | None:
        """Return the series with these names, as a whole or as labels have them; whole names take precedence.

        Labels need not be given where there is one such series.

        Raises:
            AmbiguousSeriesError: there are several such series.
        """
        given = given._replace(labels=tuple(sorted(given.labels)))
        exact = given._replace(labels=tuple(label for label in given.labels if label[1]))
        if exact in known:
            return exact
        matching = [key for key in known if self.is_named(key, given)]
        if len(matching) > 1:
            cut = [key for key in matching if self.of(key) == exact]
            if len(cut) != 1:
                raise AmbiguousSeriesError(sorted(matching))
            matching = cut
        return matching[0] if matching else None

    def _cut(self, name: str) -> str:
        return shortened(name, self.max_bytes)


DEFAULT_LABEL_NAMES: Final = LabelNames()
