"""Languages of the status page, chosen by the header ``Accept-Language`` of a request."""

from typing import Final

from exporter.web.http import parse_accept
from exporter.web.pages.status_words import ENGLISH, StatusWords
from exporter.web.pages.status_words_zh_tw import TRADITIONAL_CHINESE

_WORDS: Final = {
    "*": ENGLISH,
    "en": ENGLISH,
    "zh": TRADITIONAL_CHINESE,
    # A reader of Simplified Chinese gets English rather than the other script.
    "zh-hans": ENGLISH,
    "zh-cn": ENGLISH,
    "zh-sg": ENGLISH,
    "zh-my": ENGLISH,
}
"""Texts by language range, in lower case."""


def words_for(accept_language: str) -> StatusWords:
    """Return the texts in the language that a request prefers; English if it accepts no language that there is.

    The range with the highest weight decides (RFC 9110, 12.5.4), of equal ones the first. A range that is unknown means
    what its beginning means (RFC 4647, 3.4): ``zh-Hant-TW`` is ``zh``.

    Args:
        accept_language: the header; empty without one.
    """
    items = parse_accept(accept_language)
    refused = {item.name for item in items if not item.weight}
    for item in sorted((item for item in items if item.weight), key=lambda item: -item.weight):
        primary, *subtags = item.name.split("-", maxsplit=2)
        words = _WORDS.get("-".join((primary, *subtags[:1])), _WORDS.get(primary))
        if words is not None and words.language.lower() not in refused:
            return words
    return ENGLISH
