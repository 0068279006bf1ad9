"""Credentials are added to requests, follow their files, and are masked in messages."""

import base64
import os
from pathlib import Path

import pytest

from exporter.tempo.credentials import Credentials
from exporter.tempo.errors import TempoError
from exporter.tempo.settings import ClientSettings

SECRETS = ("t0ken-secret", "pa55-secret", "header-secret", "url-secret")


def authorization(settings: ClientSettings) -> str | None:
    return Credentials(settings).authorization()


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ClientSettings(), None),
        (ClientSettings(auth_token="abc\n"), "Bearer abc"),
        (ClientSettings(username="me", password="pä:ss"), basic("me:pä:ss")),
        (ClientSettings(username="me"), basic("me:")),
        (ClientSettings(url="http://me:p%40ss@tempo:3200/x"), basic("me:p@ss")),
        (ClientSettings(url="http://me:other@tempo", username="you", password="pw"), basic("you:pw")),
        (ClientSettings(url="http://me:pw@tempo", auth_token="abc"), "Bearer abc"),
    ],
)
def test_authorization_header_by_settings(settings: ClientSettings, expected: str | None) -> None:
    assert authorization(settings) == expected


def test_token_file_is_reread_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    credentials = Credentials(ClientSettings(auth_token_file=str(file)))
    assert credentials.authorization() == "Bearer one"
    file.write_text("longer")
    assert credentials.authorization() == "Bearer longer"
    # Kubernetes replaces the file on rotation; size and modification time may be equal.
    before = file.stat()
    replacement = tmp_path / "new"
    replacement.write_text("farther")
    replacement.write_text("fonger")
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(file)
    assert credentials.authorization() == "Bearer fonger"


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes("\ufeffpä55\r\n".encode())
    assert authorization(ClientSettings(username="me", password_file=str(file))) == basic("me:pä55")
    file.write_bytes("\ufefft0ken\n".encode())
    assert authorization(ClientSettings(auth_token_file=str(file))) == "Bearer t0ken"


def test_token_file_is_not_reread_when_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    credentials = Credentials(ClientSettings(auth_token_file=str(file)))
    credentials.authorization()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("reread"))
    assert credentials.authorization() == "Bearer one"


def test_password_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("pw\n")
    settings = ClientSettings(username="me", password_file=str(file))
    assert authorization(settings) == basic("me:pw")


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"", "is empty"), (b"a-secret\nb-secret", "more than one line"), (b"\xffx", "not UTF-8")],
)
def test_unusable_token_file_raises_an_error_without_its_content(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TempoError, match=why) as caught:
        authorization(ClientSettings(auth_token_file=str(file)))
    assert caught.value.reason == "unauthorized"
    assert caught.value.retryable
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value).replace("the secret", "")


def test_token_file_is_used_once_it_appears(tmp_path: Path) -> None:
    file = tmp_path / "token"
    credentials = Credentials(ClientSettings(auth_token_file=str(file)))
    with pytest.raises(TempoError):
        credentials.authorization()
    file.write_text("abc")
    assert credentials.authorization() == "Bearer abc"


def test_secrets_are_masked_in_text(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("pa55-secret")
    settings = ClientSettings(
        auth_token="t0ken-secret",
        username="me",
        password_file=str(file),
        headers={"X-Key": "header-secret", "X-Short": "5"},
    )
    credentials = Credentials(settings)
    assert credentials.authorization() == "Bearer t0ken-secret"
    text = "you sent t0ken-secret and header-secret, 5 times"
    assert credentials.mask(text) == "you sent <secret> and <secret>, 5 times"
    signed = Credentials(ClientSettings(username="me", password="pa55-secret"))
    assert signed.mask(f"{basic('me:pa55-secret')}, pa55-secret") == "Basic <secret>, <secret>"


def test_settings_repr_hides_secrets() -> None:
    settings = ClientSettings(
        url="https://me:url-secret@tempo:3200/prefix/?key=url-secret",
        auth_token="t0ken-secret",
        username="me",
        password="pa55-secret",
        headers={"X-Key": "header-secret"},
    )
    assert "https://tempo:3200/prefix" in repr(settings)
    assert not any(secret in repr(settings) + str(settings) for secret in SECRETS)
