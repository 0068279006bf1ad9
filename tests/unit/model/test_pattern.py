"""The user's regular expressions: linear time, clear refusals, and replacements as Python has them."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.pattern import MAX_CHARACTERS, Pattern, PatternError

EXPLOSIVE = ["/(.*/)*(health|ready)$", "(a*)*b", "(a|a)*b", "(a|aa)+$", r"^(\w+\s?)*$", "(.*a){20}x", "(x+x+)+y"]
HOSTILE = ["a/", "a", "x", "a a", "é", "/", "\0", "日本"]

PARTS = st.sampled_from(["a", "b", "/", ".", "x*", "(a|b)", "[ab]+", "(?:/a)?", "^", "$", "b{1,2}", "[^/]", r"\d", "é"])
EXPRESSIONS = st.lists(PARTS, min_size=1, max_size=5).map("".join)
NAMES = st.text("ab/x1é", max_size=20)


@pytest.mark.parametrize("expression", EXPLOSIVE)
@pytest.mark.parametrize("part", HOSTILE)
def test_no_expression_takes_long_for_a_hostile_name(expression: str, part: str) -> None:
    pattern, name = Pattern(expression), part * (100_000 // len(part)) + "!"
    started = time.thread_time()
    pattern.search(name)
    pattern.sub("_", name)
    assert time.thread_time() - started < 0.5


def test_not_even_one_that_looks_for_its_end_from_every_match() -> None:
    started = time.thread_time()
    assert Pattern("x[^y]*y|x").sub("", "x" * 100_000) == "x" * (100_000 - MAX_CHARACTERS)
    assert time.thread_time() - started < 2


@given(EXPRESSIONS, NAMES)
def test_it_matches_what_python_matches(expression: str, name: str) -> None:
    assert Pattern(expression).search(name) == (re.search(expression, name) is not None)


@given(EXPRESSIONS, NAMES, st.sampled_from(["", "-", r"[\g<0>]", r"\\", "{id}", r"\/"]))
def test_it_replaces_as_python_does(expression: str, name: str, replacement: str) -> None:
    assert Pattern(expression).sub(replacement, name) == re.sub(expression, replacement, name)


@pytest.mark.parametrize(
    ("expression", "replacement", "name", "expected"),
    [
        (r"/(\d+)/(\w+)", r"/\2/\1", "GET /17/cart", "GET /cart/17"),
        (r"(?P<verb>GET|POST) (?P<path>.*)", r"\g<path> \g<verb>", "GET /a", "/a GET"),
        (r"(?<verb>GET) ", r"\g<verb>-\g<1>-", "GET /a", "GET-GET-/a"),
        (r"(a)|(b)", r"[\1\2]", "ab", "[a][b]"),
        (r"(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)", r"\10\1", "abcdefghij", "ja"),
        (r"/(\d+)", r"/{\1}", "/1/日本/2", "/{1}/日本/{2}"),
        ("é", "e", "été", "ete"),
        ("a", "", "bcd", "bcd"),
    ],
)
def test_a_replacement_has_groups(expression: str, replacement: str, name: str, expected: str) -> None:
    assert Pattern(expression).sub(replacement, name) == expected


def test_a_replacement_that_multiplies_a_name_is_cut() -> None:
    name = "a" * 1000
    for _ in range(20):
        name = Pattern("(.)").sub(r"\1\1\1\1", name)
    assert name == "a" * (MAX_CHARACTERS - 1) + "…"
    assert Pattern("a").sub("b" * 1_000_000, "a" * 1000) == "b" * (MAX_CHARACTERS - 1) + "…"


def test_lone_surrogates_are_searched_as_what_they_are_stored_as() -> None:
    assert Pattern("a").search("\udc80a")
    assert Pattern("a").sub("b", "\udc80a") == "\\udc80b"


@pytest.mark.parametrize(
    ("expression", "reason", "advice"),
    [
        (r"^(?!shop)", "a lookaround ((?!) is not supported", "swap series.include and series.exclude"),
        (r"/health(?=z)", "a lookaround ((?=) is not supported", "Write several expressions"),
        (r"(?<=a)b", "a lookaround ((?<=) is not supported", "Write several expressions"),
        (r"(?<!a)b", "a lookaround ((?<!) is not supported", "Write several expressions"),
        (r"(a)\1", r"a backreference (\1) is not supported", "Write the repeated text out"),
        (r"(?P<n>a)(?P=n)", "a backreference ((?P) is not supported", "Write the repeated text out"),
        (r"(?>a)b", "an atomic group ((?>) is not supported", "Write (?:…)"),
        (r"a*+b", "a possessive repetition (*+) is not supported", "Leave out the second +"),
        (r"(a)?(?(1)b|c)", "a condition ((?() is not supported", "Write the alternatives out"),
        (r"a(?#note)", "a comment ((?#) is not supported", "behind # in the YAML"),
        (r"(?x) a b", "a flag other than i, m and s ((?x) is not supported", "Leave it out"),
        (r"(?ia)a", "a flag other than i, m and s ((?ia) is not supported", "Leave it out"),
        (r"a\Z", r"\Z (\Z) is not supported", r"Write \z or $"),
        (r"\u00e9", r"a character by number or name (\u) is not supported", r"Write \x{e9}"),
        (r"a{1001}", "more than 1,000 repetitions ({1001}) is not supported", "Write * or +"),
        (r"(.{900}){900}", "more than 1,000 repetitions ({900}) is not supported", "Write * or +"),
        (r".{1000}" * 100, "an expression this large", "several expressions"),
        (r"a{,3}", "{,3} is literal text in RE2", "Write {0,3}, or \\{,3} for the text"),
        (r"\Ca", r"\C would match half a character", "Write (?s:.)"),
        ("(", "missing ): (", ""),
        ("*", "no argument for repetition operator: *", ""),
        ("[z-a]", "invalid character class range: z-a", ""),
        ("x{2,1}", "invalid repetition size: {2,1}", ""),
        ("\udc80", "it is not valid UTF-8", ""),
    ],
)
def test_what_re2_does_not_support_is_named_with_what_to_write(
    expression: str, reason: str, advice: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PatternError) as refused:
        Pattern(expression)
    assert reason in str(refused.value)
    assert advice in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        (r"\2", "there is no group 2"),
        (r"\g<name>", "there is no group name"),
        (r"\g<>", "there is no group "),
        (r"\g<2>", "there is no group 2"),
        (r"\d", r"\d means nothing in a replacement"),
        ("\\", "\\ means nothing in a replacement"),
        (r"\0", r"\0 means nothing in a replacement"),
    ],
)
def test_a_replacement_that_does_not_fit_is_refused(replacement: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern("(a)").check_replacement(replacement)
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern("(a)").sub(replacement, "b")


def test_patterns_are_equal_if_their_text_is() -> None:
    assert Pattern("a") == Pattern("a") != Pattern("b")
    assert hash(Pattern("a")) == hash(Pattern("a"))


@pytest.mark.parametrize("text", [")\n0", "\x1b[", "(\u2028"])
def test_the_error_is_one_printable_line(text: str) -> None:
    with pytest.raises(PatternError) as refused:
        Pattern(text)
    assert str(refused.value).isprintable()
