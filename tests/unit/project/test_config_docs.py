import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from exporter.config import Config, ConfigError, load_config
from exporter.config.keys import ENTRIES, KEYS
from exporter.config.reference import BEGIN, END, example, flow, table
from tests.support.paths import REPOSITORY

EXAMPLE = REPOSITORY / "configs" / "exporter.yaml"
REFERENCE = REPOSITORY / "docs" / "configuration.md"


def leaves(tree: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Return the values of a nested mapping by path; an empty mapping is a value."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {place: value for name, item in tree.items() for place, value in leaves(item, (*path, name)).items()}


def block(name: str) -> str:
    """Return the content of the fenced block behind a marker of the reference."""
    found = re.search(rf"<!-- begin: {name} -->\n```\w+\n(.*?)\n```\n", REFERENCE.read_text(), re.DOTALL)
    assert found
    return found[1]


class TestExample:
    def test_has_exactly_the_keys_of_the_schema(self) -> None:
        assert list(leaves(yaml.safe_load(EXAMPLE.read_text()))) == list(KEYS)

    def test_equals_the_defaults(self) -> None:
        assert load_config(EXAMPLE, {}) == Config()

    def test_plain_yaml_types_give_the_same_configuration(self) -> None:
        assert Config.model_validate(yaml.safe_load(EXAMPLE.read_text())) == Config()

    def test_every_key_has_a_comment(self) -> None:
        lines = EXAMPLE.read_text().splitlines()
        for before, line in pairwise(lines):
            if line.strip() and not line.lstrip().startswith("#"):
                assert before.lstrip().startswith("#"), line

    def test_is_generated_from_the_schema(self) -> None:
        assert EXAMPLE.read_text() == example(), "run: make reference"


class TestReference:
    def test_has_every_key_with_variable_default_and_meaning(self) -> None:
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in REFERENCE.read_text().splitlines()
            if re.match(r"\| `", line)
        ]
        assert rows == [
            [f"`{key.dotted}`", f"`{key.variable}`", f"`{flow(key.default)}`", key.description.replace("|", "\\|")]
            for key in KEYS.values()
        ]

    def test_its_defaults_are_the_defaults(self) -> None:
        for key in KEYS.values():
            value = yaml.safe_load(flow(key.default))
            tree: object = value
            for name in reversed(key.path):
                tree = {name: tree}
            assert Config.model_validate(tree) == Config(), key.dotted

    def test_its_table_is_generated_from_the_schema(self) -> None:
        made = f"{BEGIN}\n\n{table()}\n{END}\n"
        assert made in REFERENCE.read_text(), "run: make reference"

    def test_shows_the_real_error_message(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("exporter.yaml").write_text(block("faulty"))
        with pytest.raises(ConfigError) as refused:
            load_config(Path("exporter.yaml"), {"POLLING_SETTLE": "20"})
        assert block("refusal") == str(refused.value)


def test_every_key_and_section_has_a_sentence_as_description() -> None:
    for entry in ENTRIES:
        assert re.fullmatch(r"\S.{3,130}\.", entry.description), entry
