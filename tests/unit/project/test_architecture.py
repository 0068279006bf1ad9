"""Which part may import which: the rules of docs/architecture.md, held to the code's own import statements."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import exporter

ROOT: Final = Path(exporter.__file__).parent

FOUNDATION: Final = ("__init__", "runtime")
"""Parts that know nothing of the others and that any of them may use, except the pure packages."""

LAYERS: Final = (
    ("model",),
    ("baseline",),
    ("detection",),
    ("tempo", "store", "config"),
    ("ingest",),
    ("evaluation",),
    ("metrics",),
    ("explain",),
    ("web",),
    ("app",),
    ("backtest", "history", "demo", "verify"),
    ("cli",),
    ("__main__",),
)
"""From the bottom up: a part imports from layers below its own, never from beside or above."""

PURE: Final = ("model", "baseline", "detection")
"""Packages without input, output, clock or state."""

UPWARD: Final = {
    # Served by `web`, and a command as well, which puts the parts together from a configuration itself.
    "exporter.explain.command": frozenset({"app"}),
}

CONFIGURED: Final = frozenset({"config", "app", "backtest", "history", "demo", "cli"})
"""Parts that may know the configuration; the others may only write and read values as it does."""

NOTATION: Final = frozenset({"exporter.config.addresses", "exporter.config.units", "exporter.config.wording"})
"""How durations are written and mistakes are pointed out: in the configuration, on the command line and in the API."""

LIBRARIES: Final = {
    "sqlite3": ("exporter.store.",),
    "sqlite_utils": ("exporter.store.",),
    # Besides Tempo's client: `demo` sends traffic to an OTLP endpoint, `verify` asks a running exporter.
    "requests": ("exporter.tempo.", "exporter.demo.generate", "exporter.demo.sender", "exporter.verify."),
    "urllib3": ("exporter.tempo.",),
    "waitress": ("exporter.web.",),
    "bcrypt": ("exporter.web.passwords",),
    "htpy": ("exporter.web.pages.",),
    # Besides the publisher, only what adds a collector to its registry, or reads what an exporter says.
    "prometheus_client": ("exporter.metrics.", "exporter.web.management", "exporter.verify."),
    "pydantic": ("exporter.config.",),
    "pydantic_core": ("exporter.config.",),
    "yaml": ("exporter.config.",),
    "holidays": ("exporter.config.",),
    "click": ("exporter.cli.", "exporter.demo.", "exporter.runtime.exits", "command"),
    "msgspec": ("exporter.",),
}
"""Where a library may be imported: the beginnings of modules' names, or the last part of one."""


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            if node.module == "exporter":
                yield from (f"exporter.{alias.name}" for alias in node.names)
            elif node.module is not None:
                yield node.module


def module_of(path: Path) -> str:
    return ".".join(("exporter", *path.relative_to(ROOT).with_suffix("").parts))


def part_of(module: str) -> str:
    """The part that a module belongs to; the package's own face, where its version stands, is ``__init__``."""
    name = module.split(".")[1]
    return name if (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists() else "__init__"


IMPORTS: Final = {module_of(path): sorted(set(imports(path))) for path in sorted(ROOT.rglob("*.py"))}
LAYER_OF: Final = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def within() -> Iterator[tuple[str, str, str]]:
    """The imports of one part from another: the module, its part, and what it imports."""
    for module, imported in IMPORTS.items():
        for name in imported:
            if name.split(".")[0] == "exporter" and part_of(name) != part_of(module):
                yield module, part_of(module), name


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in IMPORTS} == {*FOUNDATION, *LAYER_OF}


def test_parts_import_from_below() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, part, name in within()
        if (target := part_of(name)) not in FOUNDATION
        and target not in UPWARD.get(module, ())
        and (part in FOUNDATION or LAYER_OF[target] >= LAYER_OF[part])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_exception_is_left_over() -> None:
    """Whoever mends a dependency also takes its exception away."""
    used = {(module, part_of(name)) for module, _, name in within()}
    assert {(module, target) for module, targets in UPWARD.items() for target in targets} <= used


def test_parts_do_not_know_the_configuration() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, part, name in within()
        if part_of(name) == "config" and part not in CONFIGURED and name not in NOTATION
        if not module.endswith(".command")
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_packages_are_pure() -> None:
    """No input, no output, no clock and no state: nothing that could bring them is imported."""
    impure = {"os", "io", "pathlib", "time", "random", "threading", "subprocess", "socket", "logging", "sqlite3"}
    allowed = {"msgspec"}
    wrong = [
        f"{module} imports {name}"
        for module, imported in IMPORTS.items()
        if part_of(module) in PURE
        for name in imported
        if not name.startswith(tuple(f"exporter.{part}" for part in PURE))
        and name not in allowed
        and (name.split(".")[0] not in sys.stdlib_module_names or name.split(".")[0] in impure)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_a_library_has_its_place(library: str) -> None:
    places = LIBRARIES[library]
    users = [module for module, imported in IMPORTS.items() if library in {name.split(".")[0] for name in imported}]
    assert users, "the rule is left over"
    wrong = [user for user in users if not user.startswith(places) and user.split(".")[-1] not in places]
    assert not wrong, f"{library} is imported by {', '.join(wrong)}"


def test_every_library_has_a_rule() -> None:
    known = {*LIBRARIES, "exporter", "_typeshed", *sys.stdlib_module_names}
    found = {name.split(".")[0] for imported in IMPORTS.values() for name in imported}
    assert found <= known
