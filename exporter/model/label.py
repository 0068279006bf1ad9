"""The names of a series as labels: cut to the length that Prometheus accepts, and still distinct.

Prometheus drops a whole scrape if a label value is longer than ``label_value_length_limit``, in bytes of UTF-8; large
providers set it to 1023. Names of spans can be much longer.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from exporter.model.span import SeriesKey, encodable

_HASH_BYTES: Final = 6
"""Of ten thousand names that differ only behind the cut, two share 48 bits in one of five million cases."""


def cut_mark(name: str) -> str:
    """Return what replaces the rest of a name that is cut: an ellipsis and a hash of the whole name."""
    return "…" + blake2b(encodable(name).encode(), digest_size=_HASH_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class LabelNames:
    """Maps the names of series to label values.

    Attributes:
        max_bytes: maximum length of a label value in UTF-8, at least 64.
    """

    max_bytes: int = 1000

    def of(self, key: SeriesKey) -> SeriesKey:
        """Return the names as labels have them."""
        return SeriesKey(self._cut(key.service_name), self._cut(key.span_name))

    def is_name(self, name: str, given: str) -> bool:
        """Whether this is a name, as a whole or as labels have it."""
        return given in (name, self._cut(name))

    def is_named(self, key: SeriesKey, given: SeriesKey) -> bool:
        """Whether these are the names of a series, as a whole or as labels have them."""
        return given in (key, self.of(key))

    def all_names(self, names: Iterable[str]) -> set[str]:
        """Return names as a whole and as labels have them."""
        return {each for name in names for each in (name, self._cut(name))}

    def find(self, given: SeriesKey, known: Collection[SeriesKey]) -> SeriesKey | None:
        """Return the series with these names, as a whole or as labels have them; whole names take precedence."""
        if given in known:
            return given
        return next((key for key in known if self.of(key) == given), None)

    def _cut(self, name: str) -> str:
        text = encodable(name)
        encoded = text.encode()
        if len(encoded) <= self.max_bytes:
            return text
        mark = cut_mark(name)
        # The cut may be within a character, of which nothing is kept.
        return encoded[: self.max_bytes - len(mark.encode())].decode("utf-8", "ignore") + mark


DEFAULT_LABEL_NAMES: Final = LabelNames()
