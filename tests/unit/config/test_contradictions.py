"""Keys whose values are valid by themselves, but not together."""

from pathlib import Path

import pytest

from tests.support.config_files import Load, Problems, loader, refuser


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    return refuser(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "tempo: {auth_token: a, auth_token_file: b}",
            "tempo.auth_token and tempo.auth_token_file exclude each other: set one of them",
        ),
        (
            "tempo: {auth_token: a, basic_auth: {username: u, password: p}}",
            "tempo.auth_token and tempo.basic_auth.username exclude each other: set one of them",
        ),
        (
            "tempo: {auth_token_file: a, basic_auth: {username: u, password: p}}",
            "tempo.auth_token_file and tempo.basic_auth.username exclude each other: set one of them",
        ),
        (
            "tempo: {basic_auth: {username: u, password: p, password_file: f}}",
            "tempo.basic_auth.password and tempo.basic_auth.password_file exclude each other: set one of them",
        ),
        (
            "tempo: {basic_auth: {username: u}}",
            "tempo.basic_auth.username needs tempo.basic_auth.password or tempo.basic_auth.password_file",
        ),
        ("tempo: {basic_auth: {password: p}}", "tempo.basic_auth.password needs tempo.basic_auth.username"),
        ("tempo: {basic_auth: {password_file: p}}", "tempo.basic_auth.password_file needs tempo.basic_auth.username"),
        (
            "tempo: {auth_token: a, headers: {authorization: x}}",
            "tempo.headers.authorization and tempo.auth_token exclude each other: set one of them",
        ),
        (
            "tempo: {tenant: a, headers: {X-Scope-OrgId: x}}",
            "tempo.headers.X-Scope-OrgId and tempo.tenant exclude each other: set one of them",
        ),
        ("tempo: {tls: {cert_file: c}}", "tempo.tls.cert_file needs tempo.tls.key_file"),
        ("tempo: {tls: {key_file: k}}", "tempo.tls.key_file needs tempo.tls.cert_file"),
        (
            "polling: {tempo_interval: 121s}",
            "polling.tempo_lookback (2m) must be at least polling.tempo_interval (2m1s): traces would be missed",
        ),
        (
            "polling: {settle: 1m}",
            "polling.settle (1m) must be at least polling.tempo_lookback (2m): late traces may still arrive",
        ),
        (
            "polling: {late: 14m}",
            "polling.late (14m) must be at least polling.settle (15m): no trace could be late",
        ),
        (
            "polling: {backfill_duration: 30m}",
            "polling.backfill_duration (30m) must be at least polling.backfill_batch (1h): no window would fit",
        ),
        (
            "detection: {lookback: 30m}",
            "detection.lookback (30m) must be at least polling.backfill_batch (1h): no window would fit",
        ),
        (
            "storage: {retention: 20d}\npolling: {backfill_duration: 21d}",
            "storage.retention (20d) must be at least polling.backfill_duration (21d): history would not be kept",
        ),
        (
            "storage: {retention: 13d}",
            "storage.retention (13d) must be at least detection.lookback (14d): baselines are built from it",
        ),
        (
            "detection: {window: 2h}",
            "detection.max_window (1h) must be at least detection.window (2h): the window may grow to it",
        ),
    ],
)
def test_a_contradiction_names_both_keys(problems: Problems, text: str, problem: str) -> None:
    assert problems(text) == (problem,)


@pytest.mark.parametrize(
    "text",
    [
        "tempo: {auth_token: a}",
        "tempo: {auth_token_file: a}",
        "tempo: {basic_auth: {username: u, password_file: p}}",
        "tempo: {headers: {Authorization: x, X-Scope-OrgID: y}}",
        "tempo: {tls: {cert_file: c, key_file: k}}",
        "polling: {tempo_interval: 120s, settle: 120s}",
        "polling: {backfill_duration: 28d, backfill_batch: 24h}\ndetection: {lookback: 28d}",
        "detection: {window: 60m}",
    ],
)
def test_limits_are_inclusive(load: Load, text: str) -> None:
    load(text)


def test_contradictions_between_file_and_environment_are_reported(problems: Problems) -> None:
    (problem,) = problems("storage: {retention: 14d}", {"POLLING_BACKFILL_DURATION": "15d"})
    assert "storage.retention (14d) must be at least polling.backfill_duration (15d)" in problem


BOTH = "series.labels and series.span_name must not contain both"
SAME_NAME = ": Tempo returns them under the same name"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "labels: [resource.a.b, span.a_b]",
            ["series.labels has two attributes that make the label a_b: resource.a.b and span.a_b"],
        ),
        (
            "labels: [resource.job, span.kind, resource.__x, span.service_name]",
            [
                f"series.labels must not contain {attribute}: its label would be {name}, which has another meaning. "
                f"Make it an alternative of an attribute that names the label: [resource.my.{name}, {attribute}]"
                for attribute, name in (
                    ("resource.job", "job"),
                    ("span.kind", "kind"),
                    ("resource.__x", "__x"),
                    ("span.service_name", "service_name"),
                )
            ],
        ),
        (
            "{labels: [resource.http.route], span_name: [span.http.route, name]}",
            [f"{BOTH} resource.http.route and span.http.route{SAME_NAME}"],
        ),
        (
            "{labels: [resource.http.method], span_name: [span.url.template, name]}",
            [f"{BOTH} resource.http.method and span.http.method{SAME_NAME}"],
        ),
        (
            f"labels: [{', '.join(f'resource.a{number}' for number in range(9))}]",
            ["series.labels has 9 labels; at most 8 are possible"],
        ),
    ],
)
def test_labels_that_collide_are_refused(problems: Problems, text: str, expected: list[str]) -> None:
    assert list(problems(f"series: {text if text.startswith('{') else '{' + text + '}'}")) == expected


def test_a_label_with_a_reserved_name_may_be_called_otherwise(load: Load) -> None:
    config = load("series: {labels: [[resource.my.pod, resource.pod], 'span.two words']}")
    assert config.series.labels == (("resource.my.pod", "resource.pod"), ("span.two words",))
