"""Secrets are sent to Tempo and appear nowhere else, even if Tempo echoes them."""

import base64
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from exporter.runtime.telemetry import FAILURE_REASONS, LOOPS
from tests.e2e.conftest import StartExporter
from tests.support.processes import ExporterProcess, run, settings, write_settings
from tests.support.scrape import Metrics
from tests.support.tempo_server import FakeTempo, Handler, fake_tempo, replying

TOKEN = "glsa_t0ken-Ab9/+="
PASSWORD = 'p@ss "w0rd" \\ <ü>'
HEADER = "k3y-of-the-gateway"
PATH_OF_TOKEN = "token-file"
REFUSAL = "No, not with"
REASONS = {"refused", "unauthorized", "malformed", "server_error"}


@pytest.fixture
def echo() -> Iterator[FakeTempo]:
    """A Tempo that refuses every request and echoes its credentials."""
    numbers = count()

    def answer(handler: Handler) -> None:
        sent = [
            handler.headers[name]
            for name in ("Authorization", "X-Api-Key", "Proxy-Authorization")
            if name in handler.headers
        ]
        # At the start of the body, because long bodies are quoted in part.
        message = f"{REFUSAL} {', '.join([*map(_decoded, sent), *sent])}"
        status = next(numbers) % 4
        replying(
            f"<p>{message}</p>" if status == 2 else message, (400, 401, 200, 500)[status], "text/html; charset=utf-8",
            X_Echo=sent[0],
        )(handler)  # fmt: skip

    with fake_tempo() as tempo:
        tempo.answer(answer)
        yield tempo


def _decoded(value: str) -> str:
    kind, _, credentials = value.partition(" ")
    return base64.b64decode(credentials).decode() if kind == "Basic" else credentials


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "token": ({"auth_token": TOKEN}, [TOKEN]),
    "token file": ({"auth_token_file": PATH_OF_TOKEN}, [TOKEN]),
    "password": (
        {"basic_auth": {"username": "exporter", "password": PASSWORD}},
        [
            PASSWORD,
            json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
            base64.b64encode(f"exporter:{PASSWORD}".encode()).decode(),
        ],
    ),
    "header": ({"headers": {"X-Api-Key": HEADER}}, [HEADER]),
}


def failures(page: Metrics) -> set[str]:
    """Return the reasons of failed requests."""
    return {
        reason
        for loop in LOOPS
        for reason in FAILURE_REASONS
        if page.get("tempo_request_failures_total", loop=loop, reason=reason)
    }


@pytest.mark.parametrize("case", CASES)
def test_secrets_do_not_appear_in_any_output(
    echo: FakeTempo, exporter: StartExporter, tmp_path: Path, case: str
) -> None:
    tempo, secrets = CASES[case]
    (tmp_path / PATH_OF_TOKEN).write_text(f"{TOKEN}\n")
    # Few windows, so that the failure of each is written to the ledger.
    configuration = settings(echo.url, tempo=tempo, polling={"backfill_duration": "4h"})
    running = exporter(configuration, "--log-level", "debug")
    running.wait_for(lambda page: page.by("backfill_windows", "state")["failed"] >= 2 and failures(page) >= REASONS)
    served = [running.get(path).text for path in ("/", "/metrics", "/-/ready")]
    assert running.stop() == 0
    checked = run("--check-config", "--config", str(write_settings(tmp_path, configuration)), directory=tmp_path)
    assert checked.returncode == 0

    sent = [value for request in echo.requests for value in request.headers.values()]
    assert any(secrets[-1] in value for value in sent), "the secret was not sent"
    shown = {
        "log": "\n".join(running.lines),
        "pages": "\n".join(served),
        "--check-config": checked.stdout + checked.stderr,
        "database": (tmp_path / "tempo-anomaly.db").read_bytes().decode("utf-8", "replace"),
    }
    assert REFUSAL in shown["log"] and REFUSAL in shown["database"], "the refusal was not echoed"
    for place, text in shown.items():
        for secret in secrets:
            assert secret not in text, f"{secret!r} in {place}: {text[max(0, text.find(secret) - 300) :][:700]}"


def test_proxy_password_does_not_appear_in_any_output(echo: FakeTempo, tmp_path: Path) -> None:
    encoded = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    proxy = echo.url.replace("//", f"//me:{quote(TOKEN, safe='')}@")
    # A proxy that refuses and echoes, and one that does not exist.
    for number, address in enumerate((proxy, proxy.rpartition(":")[0] + ":1")):
        directory = tmp_path / str(number)
        directory.mkdir()
        configuration = settings("http://tempo.example:3200", polling={"backfill_duration": "4h"})
        with ExporterProcess(directory, configuration, "--log-level", "debug", http_proxy=address) as running:
            running.wait_for(lambda page: page.by("backfill_windows", "state")["failed"] >= 2)
            shown = [running.get(path).text for path in ("/", "/metrics")]
            assert running.stop() == 0
        shown += [*running.lines, (directory / "tempo-anomaly.db").read_bytes().decode("utf-8", "replace")]
        assert any((REFUSAL, "the proxy from the environment")[number] in text for text in shown)
        for secret in (TOKEN, quote(TOKEN, safe=""), encoded):
            assert secret not in "\n".join(shown)
    assert any(encoded in value for request in echo.requests for value in request.headers.values())
