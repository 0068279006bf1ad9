"""Signs requests to Tempo, and keeps what it signs them with out of every message."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import requests
from requests.auth import AuthBase

from exporter.tempo.errors import TempoError
from exporter.tempo.settings import ClientSettings

_MASK: Final = "<secret>"
_MIN_MASKED_HEADER: Final = 4
"""Header values shorter than this hide nothing and would riddle a message with masks."""


class SecretFile:
    """A file with a secret, read again when it changes, as it does when a secret is rotated."""

    def __init__(self, path: str, setting: str) -> None:
        self._path = Path(path)
        self._setting = setting
        self._read: tuple[tuple[int, int, int], str] | None = None

    def value(self) -> str:
        """The secret, without the white space around it.

        Raises:
            TempoError: it cannot be read. That may be the moment in which it is replaced, so it is worth a retry.
        """
        try:
            found = self._path.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._read is None or self._read[0] != state:
                self._read = state, self._path.read_text("utf-8").strip()
        except OSError as error:
            raise self._failure(f"cannot be read: {error.strerror or type(error).__name__}") from error
        except UnicodeError:
            # Without the cause: it quotes what it could not decode.
            raise self._failure("is not UTF-8 text") from None
        secret = self._read[1]
        if not secret:
            raise self._failure("is empty")
        if not secret.isprintable():
            raise self._failure("holds more than one line, or control characters")
        return secret

    def last(self) -> str:
        """The secret as it was last read; empty where it never was."""
        return self._read[1] if self._read else ""

    def _failure(self, what: str) -> TempoError:
        message = f"{self._setting} {self._path} {what}. Nothing was asked of Tempo; put the secret into that file."
        return TempoError(message, reason="unauthorized", retryable=True)


class Credentials(AuthBase):
    """Adds the ``Authorization`` header: the bearer token if there is one, else basic authentication, else nothing.

    Passed with every request even if it has nothing to add, because requests would take credentials from ``.netrc``
    for a request that has none.
    """

    def __init__(self, settings: ClientSettings) -> None:
        url_username, url_password = settings.url_credentials or ("", "")
        self._token = settings.auth_token.strip()
        self._token_file = _secret_file(settings.auth_token_file, "tempo.auth_token_file")
        self._username = settings.username or url_username
        self._password = settings.password if settings.username else url_password
        self._password_file = _secret_file(settings.password_file, "tempo.basic_auth.password_file")
        self._proxy_secrets = list(_proxy_secrets())
        self._header_values = [v for v in settings.headers.values() if len(v) >= _MIN_MASKED_HEADER]

    def authorization(self) -> str | None:
        """The header's value now.

        Raises:
            TempoError: a file with a secret cannot be read.
        """
        token = self._token_file.value() if self._token_file else self._token
        if token:
            return f"Bearer {token}"
        if self._username:
            password = self._password_file.value() if self._password_file else self._password
            return f"Basic {_basic(self._username, password)}"
        return None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request, as requests asks it to."""
        authorization = self.authorization()
        if authorization is not None:
            # Bytes, as http.client would force text into Latin-1.
            request.headers["Authorization"] = authorization.encode()  # type: ignore[assignment]
        return request

    def mask(self, text: str) -> str:
        """The text with every secret that this knows of replaced: a server may quote what it was sent."""
        for secret in sorted(filter(None, self._secrets()), key=len, reverse=True):
            text = text.replace(secret, _MASK)
        return text

    def _secrets(self) -> Iterator[str]:
        password = self._password_file.last() if self._password_file else self._password
        yield self._token_file.last() if self._token_file else self._token
        yield password
        if self._username:
            yield _basic(self._username, password)
        yield from self._header_values
        yield from self._proxy_secrets


def _proxy_secrets() -> Iterator[str]:
    """The passwords in the addresses of the environment's proxies, as they are and as they are sent."""
    for address in getproxies().values():
        try:
            parts = urlsplit(address)
        except ValueError:
            continue  # the request will say so
        if parts.password:
            username, password = unquote(parts.username or ""), unquote(parts.password)
            yield from (parts.password, password, _basic(username, password))


def _secret_file(path: str | None, setting: str) -> SecretFile | None:
    return SecretFile(path, setting) if path else None


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
