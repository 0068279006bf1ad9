"""From file and environment to a checked configuration, or to a list of everything that is wrong with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from exporter.config import keys
from exporter.config.complaint import complaint, dotted, place_of
from exporter.config.contradictions import contradictions
from exporter.config.document import Document, EntryPath, read_document
from exporter.config.environment import read_environment
from exporter.config.schema import Config
from exporter.config.wording import nearest


class ConfigError(Exception):
    """The configuration is not usable.

    Attributes:
        problems: everything that is wrong, a sentence each. None of them repeats a secret.
    """

    def __init__(self, problems: Sequence[str], where: str = "the configuration") -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problems" if len(self.problems) != 1 else "1 problem"
        super().__init__("\n".join([f"{count} in {where}:", *(f"  - {each}" for each in self.problems)]))


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read, merge and check the configuration: environment beats file beats default.

    Args:
        path: the YAML file, or none.
        environ: the environment, such as ``os.environ``.

    Raises:
        ConfigError: with all that is wrong, in one message.
    """
    document = read_document(path) if path else Document()
    overlay = read_environment(environ)
    origins: dict[EntryPath, str] = {place: f"{path} line {line}" for place, line in document.lines.items()}
    problems = list(document.problems)
    doubtful = {".".join(key) for key in overlay.doubtful}

    tree = _sections(document, path, origins, problems, doubtful)
    for key, value in overlay.values.items():
        _put(tree, key, value)
        origins = {place: origin for place, origin in origins.items() if place[: len(key)] != key}
        origins[key] = f"environment variable {keys.KEYS[key].variable}"
    config, errors = _validate(tree)
    for error in errors:
        place = place_of(error)
        problems.append(_problem(error, place, origins))
        doubtful.add(dotted(place))
        if error["type"] == "extra_forbidden" and (meant := _meant(place)):
            doubtful.add(meant)
    problems += overlay.problems
    if not document.broken:
        problems += [
            contradiction.message
            for contradiction in contradictions(config)
            if not any(_concerns(doubt, key) for doubt in doubtful for key in contradiction.keys)
        ]
    if problems:
        raise ConfigError(problems)
    return config


def _sections(
    document: Document, file: Path | None, origins: Mapping[EntryPath, str], problems: list[str], doubtful: set[str]
) -> dict[str, object]:
    """The tree of the file with every section a mapping: an empty one is left out, anything else is a problem."""

    def clean(value: object, path: keys.KeyPath) -> dict[str, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            name = f"{dotted(path)}{_origin(path, origins)}" if path else str(file)
            problems.append(f"{name} must be a mapping of keys to values")
            doubtful.add(dotted(path))
            return {}
        return {
            name: clean(entry, (*path, name)) if (*path, name) in keys.SECTIONS else entry
            for name, entry in value.items()
        }

    return clean(document.tree, ())


def _put(tree: dict[str, object], path: keys.KeyPath, value: object) -> None:
    for name in path[:-1]:
        child = tree.setdefault(name, {})
        assert isinstance(child, dict)  # noqa: S101 - _sections saw to it
        tree = child
    tree[path[-1]] = value


def _validate(tree: Mapping[str, object]) -> tuple[Config, list[ErrorDetails]]:
    """The configuration, and what was wrong: a faulty entry is replaced by its default, so that the rest is checked."""
    try:
        return Config.model_validate(tree), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    faulty = {_entry(place_of(error)) for error in errors}
    config, more = _validate(_without(tree, faulty, ()))
    return config, errors + more


def _without(tree: Mapping[str, object], faulty: set[EntryPath], path: EntryPath) -> dict[str, object]:
    return {
        name: _without(value, faulty, (*path, name)) if isinstance(value, dict) else value
        for name, value in tree.items()
        if (*path, name) not in faulty
    }


def _entry(place: EntryPath) -> EntryPath:
    """The key that an error belongs to, where it is deep inside the value of one."""
    return next((key for key in keys.KEYS if place[: len(key)] == key), place)


def _problem(error: ErrorDetails, place: EntryPath, origins: Mapping[EntryPath, str]) -> str:
    return f"{dotted(place)}{_origin(place, origins)} {complaint(error, _meant)}"


def _origin(place: EntryPath, origins: Mapping[EntryPath, str]) -> str:
    """Where an entry, or the nearest one around it, was written."""
    found = next((origins[place[:end]] for end in range(len(place), 0, -1) if place[:end] in origins), None)
    return f" ({found})" if found else ""


def _meant(place: EntryPath) -> str | None:
    """The valid path that an unknown one stands for: a sibling with a similar name, else the same name elsewhere."""
    name, parent = str(place[-1]), place[:-1]
    siblings = [path[-1] for path in (*keys.SECTIONS, *keys.KEYS) if path[:-1] == parent]
    if sibling := nearest(name, siblings):
        return dotted((*parent, sibling))
    return next((key.dotted for key in keys.KEYS.values() if key.path[-1] == name), None)


def _concerns(doubt: str, key: str) -> bool:
    """Whether a doubtful key, section or the whole file (``""``) is or contains the key."""
    return not doubt or key == doubt or key.startswith((f"{doubt}.", f"{doubt}["))
