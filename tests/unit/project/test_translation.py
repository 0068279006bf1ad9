"""README.zh-TW.md is README.md in Traditional Chinese."""

import re
from typing import Final

import pytest

from tests.support.paths import REPOSITORY

ENGLISH: Final = (REPOSITORY / "README.md").read_text("utf-8")
CHINESE: Final = (REPOSITORY / "README.zh-TW.md").read_text("utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def targets(text: str) -> list[str]:
    """The targets of links to other files, in order of their names."""
    found = re.findall(r"\]\(([^)#][^)]*)\)", without_code(text))
    return sorted(target for target in found if not target.startswith("README"))


def inline_code(text: str) -> list[str]:
    return sorted(re.findall(r"`([^`\n]+)`", without_code(text)))


def test_code_blocks_are_equal() -> None:
    blocks = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    assert blocks.findall(CHINESE) == blocks.findall(ENGLISH)


def test_links_are_equal() -> None:
    assert targets(CHINESE) == targets(ENGLISH)


def test_names_in_code_are_equal() -> None:
    assert inline_code(CHINESE) == inline_code(ENGLISH)


@pytest.mark.parametrize("mark", ["# ", "## ", "| ", "1. ", "2. ", "3. ", "4. ", "5. ", "**", "!["])
def test_parts_are_equal(mark: str) -> None:
    def count(text: str) -> int:
        return sum(line.startswith(mark) for line in without_code(text).splitlines())

    assert count(CHINESE) == count(ENGLISH)


def test_figures_are_equal() -> None:
    """Numbers with a decimal point or a thousands separator: those that are measured."""

    def figures(text: str) -> set[str]:
        return set(re.findall(r"\d+[.,]\d+", without_code(text)))

    # A number that Chinese counts in ten thousands is written in words there.
    assert figures(ENGLISH) - figures(CHINESE) <= {"4.5"}
    assert figures(CHINESE) <= figures(ENGLISH)


def test_each_links_to_the_other() -> None:
    assert "(README.zh-TW.md)" in ENGLISH
    assert "(README.md)" in CHINESE
