"""Loads the configuration from file and environment; all errors are reported together."""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from exporter.config import keys
from exporter.config.contradictions import contradictions
from exporter.config.document import Document, EntryPath, read_document
from exporter.config.environment import read_environment
from exporter.config.problem import EntryProblem, dotted, error_path
from exporter.config.schema import Config, Detection, MarkSettings, MarksFile, Override
from exporter.config.wording import nearest


class ConfigError(Exception):
    """The configuration is invalid.

    Attributes:
        problems: all errors, a sentence each. None of them contains a secret.
    """

    def __init__(self, problems: Sequence[str], where: str = "the configuration") -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problems" if len(self.problems) != 1 else "1 problem"
        super().__init__("\n".join([f"{count} in {where}:", *(f"  - {each}" for each in self.problems)]))


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read, merge and validate the configuration: environment beats file beats default.

    Raises:
        ConfigError: the configuration is invalid; the message lists all errors.
    """
    document = read_document(path) if path else Document()
    overlay = read_environment(environ)
    origins: dict[EntryPath, str] = {entry: f"{path} line {line}" for entry, line in document.lines.items()}
    tree, invalid = _sections(document, path, origins)
    problems = [*document.problems, *invalid.values()]
    invalid_keys = {*invalid, *(".".join(key) for key in overlay.invalid)}
    for key, value in overlay.values.items():
        _put(tree, key, value)
        origins = {entry: origin for entry, origin in origins.items() if entry[: len(key)] != key}
        origins[key] = f"environment variable {keys.KEYS[key].variable}"
    config, errors = _validate(tree)
    for error in errors:
        found = EntryProblem.of(error, _suggest)
        entry = found.path
        problems.append(found.message(origins))
        invalid_keys.add(dotted(entry))
        if error["type"] == "extra_forbidden" and (suggestion := _suggest(entry)):
            invalid_keys.add(suggestion)
    problems += overlay.problems
    if not document.broken:
        problems += [
            contradiction.message
            for contradiction in contradictions(config)
            if not any(_contains(entry, key) for entry in invalid_keys for key in contradiction.keys)
        ]
    if problems:
        raise ConfigError(problems)
    return config


def load_marks(path: Path, zone: tzinfo) -> Sequence[MarkSettings]:
    """Read ``marks_file``.

    Args:
        path: the file.
        zone: time zone of times without an offset.

    Raises:
        ConfigError: the file is invalid; the message lists all errors.
    """
    document = read_document(path)
    problems = list(document.problems)
    marks: Sequence[MarkSettings] = ()
    if not document.broken:
        if not isinstance(document.tree, dict):
            raise ConfigError([f"{path} must contain marks: and a list"], "marks_file")
        origins: dict[EntryPath, str] = {entry: f"{path} line {line}" for entry, line in document.lines.items()}
        marks, found = _validate_marks(document.tree, zone)
        problems += [each.message(origins) for each in found]
    if problems:
        raise ConfigError(problems, "marks_file")
    return marks


def _validate_marks(tree: Mapping[str, object], zone: tzinfo) -> tuple[Sequence[MarkSettings], Sequence[EntryProblem]]:
    try:
        marks = MarksFile.model_validate(tree).marks
    except ValidationError as invalid:
        return (), [EntryProblem.of(error, _suggest) for error in invalid.errors(include_url=False)]
    found = [(index, mark.problem(zone)) for index, mark in enumerate(marks)]
    return marks, [each.within(("marks", index)) for index, each in found if each is not None]


def validate_mark(item: Mapping[str, object], zone: tzinfo) -> tuple[MarkSettings | None, Sequence[EntryProblem]]:
    """Validate an item of ``marks`` by itself.

    Args:
        item: its keys and values.
        zone: time zone of times without an offset.

    Returns:
        The mark, and all problems; paths begin in the item.
    """
    try:
        mark = MarkSettings.model_validate(item)
    except ValidationError as invalid:
        return None, [EntryProblem.of(error, _suggest_in_mark) for error in invalid.errors(include_url=False)]
    found = mark.problem(zone)
    return mark, [] if found is None else [found]


def _sections(
    document: Document, file: Path | None, origins: Mapping[EntryPath, str]
) -> tuple[dict[str, object], dict[str, str]]:
    """Return the tree of the file with only mappings as sections, and a problem for each section that is none."""
    invalid: dict[str, str] = {}

    def clean(value: object, path: keys.KeyPath) -> dict[str, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            text = "must be a mapping of keys to values"
            message = EntryProblem(path, text).message(origins) if path else f"{file} {text}"
            invalid[dotted(path)] = message
            return {}
        return {
            name: clean(entry, (*path, name)) if (*path, name) in keys.SECTIONS else entry
            for name, entry in value.items()
        }

    return clean(document.tree, ()), invalid


def _put(tree: dict[str, object], path: keys.KeyPath, value: object) -> None:
    for name in path[:-1]:
        child = tree.setdefault(name, {})
        assert isinstance(child, dict)  # noqa: S101 - see _sections
        tree = child
    tree[path[-1]] = value


def _validate(tree: Mapping[str, object]) -> tuple[Config, list[ErrorDetails]]:
    """Return the configuration and its errors; invalid entries have their default, so that all others are validated."""
    try:
        return Config.model_validate(tree), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    invalid_entries = {_entry(error_path(error)) for error in errors}
    config, more = _validate(_without(tree, invalid_entries, ()))
    return config, errors + more


def _without(tree: Mapping[str, object], entries: set[EntryPath], path: EntryPath) -> dict[str, object]:
    return {
        name: _without(value, entries, (*path, name)) if isinstance(value, dict) else value
        for name, value in tree.items()
        if (*path, name) not in entries
    }


def _entry(path: EntryPath) -> EntryPath:
    """Return the key that contains an entry, or the path itself without such a key."""
    return next((key for key in keys.KEYS if path[: len(key)] == key), path)


def _suggest(path: EntryPath) -> str | None:
    """Return the valid path for an unknown one: a sibling with a similar name, else the same name elsewhere."""
    name, parent = str(path[-1]), path[:-1]
    if path[0] == "overrides":
        fields = Override.model_fields if len(parent) == 2 else Detection.model_fields
        if sibling := nearest(name, fields):
            return dotted((*parent, sibling))
        return dotted((*path[:2], "detection", name)) if name in Detection.model_fields else None
    if path[0] == "marks" and len(path) > 1:
        return _suggest_in_mark(path)
    siblings = [path[-1] for path in (*keys.SECTIONS, *keys.KEYS) if path[:-1] == parent]
    if sibling := nearest(name, siblings):
        return dotted((*parent, sibling))
    return next((key.dotted for key in keys.KEYS.values() if key.path[-1] == name), None)


def _suggest_in_mark(path: EntryPath) -> str | None:
    sibling = nearest(str(path[-1]), [field.alias or key for key, field in MarkSettings.model_fields.items()])
    return dotted((*path[:-1], sibling)) if sibling else None


def _contains(entry: str, key: str) -> bool:
    """Return whether a key, a section or the whole file (``""``) is or contains a key."""
    return not entry or key == entry or key.startswith((f"{entry}.", f"{entry}["))
