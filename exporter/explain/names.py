"""Which series was meant by a name that there is none of."""

from collections.abc import Iterable
from typing import Final

from exporter.config.wording import all_near
from exporter.model.span import SeriesKey

_SIMILAR: Final = 0.5


def nearest_series(wanted: SeriesKey, known: Iterable[SeriesKey], most: int = 5) -> list[SeriesKey]:
    """The series whose names come nearest to the one that was asked for, best first; those of its service go before."""
    by_service: dict[str, list[SeriesKey]] = {}
    for key in known:
        by_service.setdefault(key.service_name, []).append(key)
    own = by_service.pop(wanted.service_name, [])
    found = _nearest(wanted.span_name, {key: key.span_name for key in own}, most)
    if len(found) < most:
        others = {key: " ".join(key) for keys in by_service.values() for key in keys}
        found += _nearest(" ".join(wanted), others, most - len(found))
    return found or sorted(own)[:most]


def _nearest(name: str, candidates: dict[SeriesKey, str], most: int) -> list[SeriesKey]:
    by_name: dict[str, list[SeriesKey]] = {}
    for key, candidate in sorted(candidates.items()):
        by_name.setdefault(candidate, []).append(key)
    near = all_near(name, by_name, most=most, cutoff=_SIMILAR)
    return [key for candidate in near for key in by_name[candidate]][:most]
