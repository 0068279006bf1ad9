"""Excerpts of documents: they fit, say what is missing, and hold hostile names as data."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.mcp_server.answers import (
    MAX_BYTES,
    AnswerTooLongError,
    cut_name,
    cut_sentence,
    encode,
    excerpt,
    fitted,
    keys,
)
from exporter.model.label import is_shortened

TEXTS = st.text(st.characters(codec=None), max_size=3000)


def size(document: Any) -> int:
    return len(encode(document).encode())


class TestExcerpt:
    def test_keeps_the_named_keys_in_their_order_and_leaves_out_unknown_values(self) -> None:
        document = {"c": {"x": 1, "y": None}, "b": [{"x": 0, "y": 2}], "a": None, "d": 4, "e": {"x": None}}
        kept = keys("d a", b=keys("x"), c=keys("x y"), e=keys("x"))
        assert json.dumps(excerpt(document, kept)) == '{"d": 4, "b": [{"x": 0}], "c": {"x": 1}}'

    def test_labels_of_any_name_are_kept(self) -> None:
        assert excerpt({"labels": {"env": "prod"}}, keys("labels")) == {"labels": {"env": "prod"}}

    @given(TEXTS)
    def test_a_name_is_short_and_still_identified(self, name: str) -> None:
        cut = cut_name(name)
        assert size(cut) <= 320
        assert cut == name.encode("utf-8", "backslashreplace").decode() or is_shortened(name, cut)

    @given(TEXTS)
    def test_a_sentence_is_cut_at_its_end(self, text: str) -> None:
        cut = cut_sentence(text)
        assert size(cut) <= 1010
        assert cut == text or text.startswith(cut[:-1])


class TestEncode:
    @given(st.dictionaries(TEXTS, TEXTS, max_size=3))
    def test_text_can_be_decoded_and_has_nothing_that_acts(self, document: dict[str, str]) -> None:
        text = encode(document)
        assert json.loads(text) == document
        assert all(character.isprintable() and character not in "<>" for character in text)

    def test_markup_control_characters_and_changes_of_direction_are_escaped(self) -> None:
        assert encode({"a": "</x>\n\x00\u202e\U000e0041订"}) == (
            '{"a":"\\u003c/x\\u003e\\n\\u0000\\u202e\\udb40\\udc41订"}'
        )


class TestFitted:
    def test_a_short_document_stays_as_it_is(self) -> None:
        document = {"a": [1, 2], "b": {"c": [3]}}
        assert fitted(document, main="a", minor=["b.c", "missing.list"]) == document

    def test_main_list_ends_where_the_answer_is_full(self) -> None:
        document = {"api": "/x", "items": [f"{number:03}" + "x" * 37 for number in range(200)]}
        answer = fitted(document, main="items", skip=10)
        shown = answer["items"]
        assert shown == document["items"][: len(shown)]
        assert answer["left_out"] == [{"list": "items", "items": 200 - len(shown), "get": f"skip={10 + len(shown)}"}]
        assert MAX_BYTES - 100 < size(answer) <= MAX_BYTES

    def test_other_lists_are_cut_at_eight_items_and_further_where_nothing_else_helps(self) -> None:
        answer = fitted({"items": [1], "other": list(range(20))}, main="items", minor=["other"])
        assert answer["left_out"] == [{"list": "other", "items": 12, "get": "the response of `api`"}]
        answer = fitted({"items": ["x" * 900], "other": ["y" * 900] * 20}, main="items", minor=["other"])
        assert (answer["items"], len(answer["other"])) == (["x" * 900], 2)

    @pytest.mark.parametrize(("beyond", "rest"), [(7, {"items": 7}), (None, {"items": 0, "at_least": True})])
    def test_items_behind_the_document_are_counted(self, beyond: int | None, rest: dict[str, Any]) -> None:
        answer = fitted({"items": [1, 2]}, main="items", beyond=beyond)
        assert answer == {"items": [1, 2], "left_out": [{"list": "items", "get": "skip=2", **rest}]}

    def test_one_item_that_is_too_long_is_not_offered_again(self) -> None:
        answer = fitted({"items": ["x" * 5000]}, main="items")
        assert answer["left_out"] == [{"list": "items", "items": 1, "get": "the response of `api`"}]

    def test_what_fits_in_no_way_is_refused(self) -> None:
        with pytest.raises(AnswerTooLongError):
            fitted({"a": "x" * 5000})

    @settings(max_examples=30)
    @given(st.lists(st.text(max_size=400), max_size=20), st.lists(st.text(max_size=400), max_size=20))
    def test_answers_are_never_too_long(self, main: list[str], minor: list[str]) -> None:
        answer = fitted({"main": main, "minor": minor}, main="main", minor=["minor"])
        assert size(answer) <= MAX_BYTES
        left_out = {each["list"]: each["items"] for each in answer.get("left_out", ())}
        for name, whole in (("main", main), ("minor", minor)):
            assert answer[name] == whole[: len(answer[name])]
            assert len(answer[name]) + left_out.get(name, 0) == len(whole)
