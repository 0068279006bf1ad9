"""What contributors meet: targets, hooks, workflow, issue forms and decision records fit together."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import __version__
from tests.support.paths import REPOSITORY
from tools.release import changelog_problems

MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
RECORDS = sorted((REPOSITORY / "docs/adr").glob("[0-9]*.md"))
LINK = re.compile(r"\]\(([\w./-]+)\)")


def load(path: str) -> Any:
    return yaml.safe_load((REPOSITORY / path).read_text("utf-8"))


def test_pre_commit_runs_the_tools_of_make_lint_from_the_environment_of_make_install() -> None:
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    lint = recipe[1].replace("$(SCHEMA)", "$(BIN)/check-jsonschema").replace("$(BIN)/", ".venv/bin/")
    tools = set(re.findall(r"\.venv/bin/(?:python -m tools\.\w+|[\w-]+(?: (?:check|format))?)", lint))
    hooks = [hook for repository in load(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    run = {
        match[0]
        for hook in hooks
        for match in re.finditer(r"\.venv/bin/(?:python -m [\w.]+|[\w-]+(?: (?:check|format))?)", hook["entry"])
    }
    assert run == tools
    assert len(tools) == 6
    # Without network: every hook is local.
    assert {repository["repo"] for repository in load(".pre-commit-config.yaml")["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_workflow_calls_the_script_of_continuous_integration() -> None:
    workflow = load(".github/workflows/ci.yml")
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert any("actionlint" in command for command in commands)
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_has_the_oldest_supported_python_and_that_of_the_image() -> None:
    job = load(".github/workflows/ci.yml")["jobs"]["test"]
    image = re.search(r"^FROM python:(\d+\.\d+)", (REPOSITORY / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert image is not None
    assert job["container"] == f"python:{image[1]}-bookworm"
    # Debian 12 has the oldest.
    assert 'requires-python = ">=3.11"' in (REPOSITORY / "pyproject.toml").read_text("utf-8")
    assert any("install --yes --no-install-recommends python3-venv" in step.get("run", "") for step in job["steps"])


def test_a_bug_report_asks_for_verify_versions_and_configuration() -> None:
    text = (REPOSITORY / ".github/ISSUE_TEMPLATE/bug.yml").read_text("utf-8")
    for needed in ("verify --json", "--version", "Tempo", "Python", "--check-config"):
        assert needed in text
    required = {
        field["id"]
        for field in load(".github/ISSUE_TEMPLATE/bug.yml")["body"]
        if field.get("validations", {}).get("required")
    }
    assert required == {"what", "verify", "versions", "configuration"}


def test_every_target_is_phony_and_described() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.* ## \S", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert targets == described == set(phony[1].replace("\\\n", " ").split())


def test_the_change_log_is_that_of_the_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    # Between releases it begins with what the next one will have.
    assert (
        changelog_problems(text.replace("\n## Unreleased\n", f"\n## {__version__} / 2026-01-01\n"), __version__) == []
    )


class TestDocumentation:
    def test_the_index_links_every_page(self) -> None:
        index = (REPOSITORY / "docs/README.md").read_text("utf-8")
        linked = {target.partition("#")[0] for target in LINK.findall(index)}
        pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
        assert pages <= linked

    def test_the_index_of_decisions_lists_every_record_with_title_and_date(self) -> None:
        index = (REPOSITORY / "docs/adr/README.md").read_text("utf-8")
        rows = re.findall(r"^\| \[(\d{4})\]\(([\w-]+\.md)\) \| (.+) \| ([\d-]+) \|$", index, re.MULTILINE)
        assert rows == [(record.name[:4], record.name, *title_and_date(record)) for record in RECORDS]


def title_and_date(record: Path) -> tuple[str, str]:
    heading = re.match(r"# (\d+)\. (.+)\n\n(\d{4}-\d{2}-\d{2}) · ", record.read_text("utf-8"))
    assert heading is not None, record.name
    assert int(heading[1]) == int(record.name[:4])
    return heading[2], heading[3]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_record_is_dated_short_and_has_its_three_sections(record: Path) -> None:
    text = record.read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert date.fromisoformat(title_and_date(record)[1]).year >= 2026
    assert len(text.splitlines()) < 40


def test_the_extra_is_locked_for_developers_only_and_no_lock_names_a_host() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extra = {re.split(r"[<>=]", each)[0] for each in project["optional-dependencies"]["mcp"]}
    locks = {name: (REPOSITORY / f"requirements{name}.lock").read_text("utf-8") for name in ("", "-dev", "-build")}
    locked = {name: set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)) for name, text in locks.items()}
    assert extra <= locked["-dev"]
    assert not extra & locked[""]
    assert locked[""] <= locked["-dev"]
    assert not any("//" in text or "index-url" in text for text in locks.values())
