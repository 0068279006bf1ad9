"""The rules of docs/architecture.md on which package may import which, checked against the import statements."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import exporter

ROOT: Final = Path(exporter.__file__).parent

FOUNDATION: Final = ("__init__", "runtime")
"""Packages that import no other one and that every other one but the pure ones may import."""

LAYERS: Final = (
    ("model",),
    ("baseline",),
    ("detection",),
    ("cause",),
    ("tempo", "store", "config"),
    ("ingest",),
    ("evaluation",),
    ("metrics",),
    ("explain",),
    ("web",),
    ("app",),
    ("backtest", "history", "demo", "verify"),
    ("mcp_server",),
    ("cli",),
    ("__main__",),
)
"""From the bottom up: a package imports only from layers below its own."""

PURE: Final = ("model", "baseline", "detection", "cause")
"""Packages without input, output, clock and state."""

CONFIGURED: Final = frozenset({"config", "app", "backtest", "history", "demo", "cli"})
"""Packages that may import the configuration; the others may import its notation only."""

NOTATION: Final = frozenset({"exporter.config.units", "exporter.config.wording"})
"""The notation of durations and the wording of errors, which command line and API share with the configuration."""

LIBRARIES: Final = {
    "sqlite3": ("exporter.store.",),
    "sqlite_utils": ("exporter.store.library",),
    "numpy": ("exporter.detection.arrays.", "exporter.model.digest_arrays"),
    # Besides Tempo's client: `verify` asks a running exporter.
    "requests": ("exporter.tempo.", "exporter.verify."),
    "urllib3": ("exporter.tempo.",),
    "waitress": ("exporter.web.",),
    "bcrypt": ("exporter.web.passwords",),
    "htpy": ("exporter.web.pages.",),
    # Besides `metrics`: the page that renders its registry, and the reader of another exporter's metrics.
    "prometheus_client": ("exporter.metrics.", "exporter.web.management", "exporter.verify."),
    # Besides the configuration: the schemas of the tools, for which `mcp` needs it.
    "pydantic": ("exporter.config.", "exporter.mcp_server.server"),
    "pydantic_core": ("exporter.config.",),
    "yaml": ("exporter.config.",),
    "holidays": ("exporter.config.",),
    "click": ("exporter.cli.", "exporter.demo."),
    "msgspec": ("exporter.",),
    "mcp": ("exporter.mcp_server.server",),
    "uvicorn": ("exporter.mcp_server.server",),
    "re2": ("exporter.model.pattern",),
    "dateutil": ("exporter.model.time_mark",),
}
"""The modules that may import a library, by the beginning of their name."""

LOCKS: Final = frozenset({"Lock", "RLock", "Condition", "Semaphore"})
"""Names of `threading` that only `runtime.locks` uses, because it gives every lock its place in the lock order."""

UNORDERED_LOCKS: Final = ("exporter.runtime.locks", "exporter.demo.", "exporter.web.server.tls")
"""Besides that module: the demo's embedded Tempo, and the lock of a TLS connection, which nests in waitress' own."""


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a file imports, anywhere in it."""
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


def package_of(module: str) -> str:
    """Return the package of a module; ``__init__`` is the exporter's own, which holds the version."""
    name = module.split(".")[1]
    return name if (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists() else "__init__"


IMPORTS: Final = {module_of(path): sorted(set(imports(path))) for path in sorted(ROOT.rglob("*.py"))}
LAYER_OF: Final = {package: number for number, packages in enumerate(LAYERS) for package in packages}


def imports_between_packages() -> Iterator[tuple[str, str, str]]:
    """Yield the imports of one package from another: the module, its package, and the imported module."""
    for module, imported in IMPORTS.items():
        for name in imported:
            if name.split(".")[0] == "exporter" and package_of(name) != package_of(module):
                yield module, package_of(module), name


def test_every_package_has_a_layer() -> None:
    assert {package_of(module) for module in IMPORTS} == {*FOUNDATION, *LAYER_OF}


def test_packages_import_only_from_layers_below() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, package, name in imports_between_packages()
        if (target := package_of(name)) not in FOUNDATION
        and (package in FOUNDATION or LAYER_OF[target] >= LAYER_OF[package])
    ]
    assert not wrong, "\n".join(wrong)


def test_components_do_not_import_the_configuration() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, package, name in imports_between_packages()
        if package_of(name) == "config" and package not in CONFIGURED and name not in NOTATION
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_packages_import_nothing_impure() -> None:
    impure = {"os", "io", "pathlib", "time", "random", "threading", "subprocess", "socket", "logging", "sqlite3"}
    allowed = {"msgspec", "re2", "dateutil.rrule", "numpy", "numpy.typing"}
    wrong = [
        f"{module} imports {name}"
        for module, imported in IMPORTS.items()
        if package_of(module) in PURE
        for name in imported
        if not name.startswith(tuple(f"exporter.{package}" for package in PURE))
        and name not in allowed
        and (name.split(".")[0] not in sys.stdlib_module_names or name.split(".")[0] in impure)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = [module for module, imported in IMPORTS.items() if library in {name.split(".")[0] for name in imported}]
    assert users, "no module imports it any more: remove its rule"
    wrong = [user for user in users if not user.startswith(LIBRARIES[library])]
    assert not wrong, f"{library} is imported by {', '.join(wrong)}"


def test_every_library_has_a_rule() -> None:
    known = {*LIBRARIES, "exporter", "_typeshed", *sys.stdlib_module_names}
    found = {name.split(".")[0] for imported in IMPORTS.values() for name in imported}
    assert found <= known


def test_locks_are_created_with_a_rank() -> None:
    wrong = [
        f"{module_of(path)} line {node.lineno} uses {node.attr}"
        for path in sorted(ROOT.rglob("*.py"))
        if not module_of(path).startswith(UNORDERED_LOCKS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in LOCKS
    ]
    assert not wrong, "\n".join(wrong)
