"""The status page in Traditional Chinese: when it is chosen, and that all of it is translated."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.detection.streams import StreamReason
from exporter.evaluation.live.edge import LiveEdge
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import KindStatus, SeriesStatus, Snapshot
from exporter.model.label import LabelNames
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, MarkRange, TimeMark
from exporter.web.pages.formatting import TimeWords
from exporter.web.pages.languages import words_for
from exporter.web.pages.selection import StateFilter
from exporter.web.pages.status_words import StatusWords
from exporter.web.pages.status_words_zh_tw import TRADITIONAL_CHINESE, TraditionalChineseWords
from tests.support.causes import a_cause
from tests.support.page_reader import VOID, Pages, ParsedPage
from tests.support.samples import DAY, KEY, NOON, REGRESSION, backfill_status, baseline
from tests.unit.web.test_pages import COMPUTING, numbered_endpoints, policy, small_snapshot, snapshot_of

CHINESE = re.compile(r"[\u4e00-\u9fff]")
WORD = re.compile(r"[A-Za-z][\w.-]*")
NUMBER = re.compile(r"(?<![\w.,:])(?:[0-9][0-9.,:]*[0-9]|[0-9])")
TEXT_ATTRIBUTES = ("title", "aria-label", "alt", "placeholder", "data-label")
UNTRANSLATED = {
    "tempo-anomaly-exporter",
    "exporter",
    "Tempo",
    "HTTP",
    "API",
    "p50",
    "p95",
    "ms",
    "ns",
    "s",
    "MB",
    "UTC",
}
"""Names, units and quantiles, which are the same in both languages."""
NAMES = {"span", "series.streams", "override", "enabled", "false", "deployment_environment_name", "prod"}
"""Names from the configuration, and of what Tempo has."""


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept_language", "language"),
        [
            ("", "en"),
            ("zh-TW", "zh-TW"),
            ("zh", "zh-TW"),
            ("zh-Hant", "zh-TW"),
            ("zh-Hant-TW", "zh-TW"),
            ("zh-hk", "zh-TW"),
            ("ZH-tw", "zh-TW"),
            ("zh-TW,zh;q=0.9,en-US;q=0.8,en;q=0.7", "zh-TW"),
            ("en-US,en;q=0.9,zh-TW;q=0.8", "en"),
            ("en;q=0.3, zh-TW;q=0.4", "zh-TW"),
            ("en, zh-TW", "en"),
            ("zh-TW, en", "zh-TW"),
            ("de-DE, fr;q=0.9, zh-TW;q=0.1", "zh-TW"),
            ("de-DE", "en"),
            ("zh-CN", "en"),
            ("zh-Hans", "en"),
            ("zh-Hans-TW", "en"),
            ("zh-CN,zh;q=0.9", "en"),
            ("zh-CN,zh;q=0.9,zh-TW;q=0.8,en;q=0.7", "en"),
            ("zh-TW;q=0.5, *;q=0.8", "en"),
            ("*", "en"),
            ("zh-TW;q=0", "en"),
            ("zh;q=0.8, zh-TW;q=0", "en"),
            ("zh-TW;q=2", "en"),
            ("zhx, zh_TW, -, ;;,", "en"),
            ("zh" + "-x" * 100_000, "zh-TW"),
        ],
    )
    def test_the_preferred_language_is_chosen(self, accept_language: str, language: str) -> None:
        assert words_for(accept_language).language == language

    @pytest.mark.parametrize("language", ["en", "zh-TW"])
    def test_the_response_says_its_language_and_depends_on_the_header(self, language: str) -> None:
        page = Pages(small_snapshot()).read(accept_language=language)
        assert page.response.headers["Content-Language"] == language
        assert page.response.headers["Vary"] == "Accept-Language"
        assert page.elements[0] == ("html", {"lang": language})

    def test_the_other_pages_are_in_english(self) -> None:
        page = Pages(small_snapshot()).read("/incidents", accept_language="zh-TW")
        assert page.response.headers["Content-Language"] == "en"
        assert page.elements[0] == ("html", {"lang": "en"})
        assert "Vary" not in page.response.headers


def texts_of(words: type) -> dict[str, object]:
    return {name: value for name, value in vars(words).items() if not name.startswith("_")}


class TestTexts:
    ENGLISH = texts_of(TimeWords) | texts_of(StatusWords)
    CHINESE = texts_of(TraditionalChineseWords)

    def test_every_text_has_a_translation(self) -> None:
        assert set(self.CHINESE) == set(self.ENGLISH)

    @pytest.mark.parametrize("name", [name for name, value in ENGLISH.items() if not callable(value)])
    def test_constants_are_in_chinese_and_have_the_same_keys(self, name: str) -> None:
        english, chinese = self.ENGLISH[name], self.CHINESE[name]
        if name == "language":
            return
        if isinstance(english, Mapping):
            assert isinstance(chinese, Mapping)
            assert list(english) == list(chinese)
        translated = list(strings(chinese))
        assert len(translated) == len(list(strings(english)))
        for text in translated:
            assert CHINESE.search(text) or text in UNTRANSLATED, text


def strings(value: object) -> Iterator[str]:
    """Yield the texts of a constant: not the keys of a mapping, nor the first part of what has a name in code."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    else:
        assert isinstance(value, tuple)
        for each in value:
            yield from strings(each[1:] if isinstance(each, tuple) else each)


class Reader(ParsedPage):
    """Separates the texts of a page from what is the same in all languages.

    Attributes:
        words: the texts, also of attributes, without names, code and what is marked as English.
        names: the names and the code.
        english: what is marked as English.
    """

    def __init__(self, page: ParsedPage) -> None:
        self.words: list[str] = []
        self.names: list[str] = []
        self.english: list[str] = []
        self._kinds: list[list[str]] = []
        super().__init__(page.response)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        given = dict(attrs)
        label = given.get("class") == "label"
        self.words += [value for name in TEXT_ATTRIBUTES if (value := given.get(name)) and not label]
        if tag not in VOID:
            is_name = tag in ("bdi", "code")
            is_english = tag != "html" and given.get("lang") == "en"
            around = self._kinds[-1] if self._kinds else self.words
            self._kinds.append(self.names if is_name else self.english if is_english else around)

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        self._kinds.pop()

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        (self._kinds[-1] if self._kinds else self.words).append(data)


LOAD_TEST = TimeMark(MarkKind.EXPECTED, Pattern("m/marked"), NOON - 60, NOON + 60)


def complete() -> Pages:
    status = backfill_status()
    done = replace(status, progress=replace(status.progress, pending=0, failed=0))
    return Pages(Snapshot(float(NOON)), done)


def blind(lag_seconds: float | None) -> Pages:
    return Pages(replace(small_snapshot(), edge=LiveEdge(True, lag_seconds)))


def anomalous() -> Pages:
    """Shifts with and without evidence, with a cause, from before a restart, and flags of the last day."""
    firing = KindStatus(FlagKind.TRAFFIC, firing=True, since=NOON - 300.0)
    (known,) = (each for each in small_snapshot().series if each.key == KEY)
    snapshot = snapshot_of(
        replace(known, cause=a_cause(), kinds=(*known.kinds[:1], firing)),
        SeriesStatus(SeriesKey("a", "silent"), baseline(), shift=False, kinds=(firing,)),
        SeriesStatus(SeriesKey("b", "over"), baseline(), current_traces=2, shift=True, since=NOON - 4000.0,
                     time_lost=TimeLost(1, 12.0, NOON - 60.0)),
        SeriesStatus(SeriesKey("c", "unknown"), baseline(), shift=True, since=NOON - 3.0 * DAY),
        SeriesStatus(SeriesKey("d", "computing"), shift=True, is_baseline_known=False),
        SeriesStatus(SeriesKey("e", "slower"), baseline(), shift=False, regressed=True, regression=REGRESSION),
    )  # fmt: skip
    flags = {
        SeriesKey("f", f"{number}"): [FlagPeriod(kind, NOON - 9000.0 - number, NOON - 6000.0) for kind in FlagKind]
        for number in range(9)
    }
    return Pages(snapshot, flags=flags)


def many_shifts() -> Pages:
    return Pages(snapshot_of(*(SeriesStatus(SeriesKey("s", f"{n}"), current_traces=9, shift=True) for n in range(60))))


def states() -> Pages:
    """An endpoint in every state that is not anomalous, and labels."""
    statuses = [
        *(SeriesStatus(SeriesKey("s", reason.value), baseline(), stream=reason) for reason in StreamReason),
        *(SeriesStatus(SeriesKey("l", f"{level}"), baseline(level=level)) for level in list(FallbackLevel)[:4]),
        SeriesStatus(SeriesKey("d", "disabled"), baseline(), policy=policy(is_enabled=False)),
        SeriesStatus(SeriesKey("m", "marked"), baseline(), marks=(MarkRange(NOON - 60, NOON + 60, LOAD_TEST),)),
        SeriesStatus(SeriesKey("w", "x", (("deployment_environment_name", "prod"),)), baseline(mature=False)),
        SeriesStatus(KEY, baseline(), shift=False),
    ]
    names = LabelNames(names=("deployment_environment_name",))
    return Pages(snapshot_of(*statuses), label_names=names, folded={f"svc-{number}": 3 for number in range(12)})


def out_of_date() -> Pages:
    pages = Pages(small_snapshot())
    pages.clock.now += 100
    return pages


def unreadable() -> Pages:
    pages = Pages(replace(small_snapshot(), read_error="connection refused"))
    pages.clock.now += 3 * DAY + 60
    return pages


CASES: Mapping[str, Callable[[], Pages]] = {
    "not started": lambda: Pages(None, None),
    "unread": lambda: Pages(Snapshot(None, read_error="connection refused"), backfill_status()),
    "empty": complete,
    "during backfill": lambda: Pages(small_snapshot(), replace(backfill_status(), failure="HTTP 500")),
    "baselines computed": lambda: Pages(COMPUTING, backfill_status()),
    "without history": lambda: Pages(numbered_endpoints(120), complete().backfill),
    "anomalous": anomalous,
    "many shifts": many_shifts,
    "blind": lambda: blind(240.0),
    "blind without a lag": lambda: blind(None),
    "out of date": out_of_date,
    "unreadable": unreadable,
    "states": states,
}


@pytest.mark.parametrize("query", ["", "q=nonesuch", "q=cart", "sort=p95&order=asc&page=2"])
@pytest.mark.parametrize("case", CASES)
class TestPage:
    def test_no_english_word_is_left_over(self, case: str, query: str) -> None:
        page = Reader(CASES[case]().read(query=query, accept_language="zh-TW"))
        words = " ".join(page.words)
        assert CHINESE.search(words)
        assert set(WORD.findall(words)) <= UNTRANSLATED | NAMES

    def test_names_links_values_and_numbers_are_those_of_the_english_page(self, case: str, query: str) -> None:
        english, chinese = (
            Reader(CASES[case]().read(query=query, accept_language=language)) for language in ("en", "zh-TW")
        )
        assert chinese.names == english.names
        for name in ("href", "src", "action", "name", "value", "class", "id", "datetime"):
            assert sorted(chinese.attributes(name)) == sorted(english.attributes(name))
        every = (" ".join((*page.words, *page.english)) for page in (english, chinese))
        assert len({tuple(sorted(NUMBER.findall(each))) for each in every}) == 1
        for sentence in chinese.english:
            assert sentence in english.text


def test_every_constant_is_shown_in_some_case() -> None:
    shown = " ".join(
        each
        for case in CASES.values()
        for query in ("", "q=nonesuch")
        for each in Reader(case().read(query=query, accept_language="zh-TW")).words
    ).casefold()
    missing = [
        text
        for name, value in texts_of(TraditionalChineseWords).items()
        if not callable(value) and name != "language"
        for text in strings(value)
        if text.casefold() not in shown
    ]
    assert not missing


def test_every_state_has_a_name_in_both_languages() -> None:
    assert {state.value for state in StateFilter} == set(TRADITIONAL_CHINESE.states)
