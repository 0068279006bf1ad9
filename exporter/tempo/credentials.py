"""Adds credentials to requests to Tempo, and masks them in every message."""

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
"""Shorter header values are not masked: they would match unrelated parts of a message."""


class SecretFile:
    """A secret in a file, reread when the file changes, so that secrets can be rotated."""

    def __init__(self, path: str, setting: str) -> None:
        self._path = Path(path)
        self._setting = setting
        self._cached: tuple[tuple[int, int, int], str] | None = None

    def value(self) -> str:
        """Return the secret without surrounding white space and without a byte order mark.

        Raises:
            TempoError: the file cannot be read. Retryable, because the file may just be being replaced.
        """
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._cached is None or self._cached[0] != version:
                self._cached = version, self._path.read_text("utf-8-sig").strip()
        except OSError as error:
            raise self._failure(f"cannot be read: {error.strerror or type(error).__name__}") from error
        except UnicodeError:
            # No cause: the UnicodeError quotes the file's content.
            raise self._failure("is not UTF-8 text") from None
        secret = self._cached[1]
        if not secret:
            raise self._failure("is empty")
        if not secret.isprintable():
            raise self._failure("contains more than one line, or control characters")
        return secret

    def last(self) -> str:
        """Return the secret that was read last; empty if none was."""
        return self._cached[1] if self._cached else ""

    def _failure(self, problem: str) -> TempoError:
        message = (
            f"{self._setting} {self._path} {problem}. No request was sent to Tempo; put the secret into that file."
        )
        return TempoError(message, reason="unauthorized", retryable=True)


class Credentials(AuthBase):
    """Adds the ``Authorization`` header: a bearer token if configured, else basic authentication, else no header.

    It is passed with every request, even with nothing to add: requests reads ``.netrc`` for requests without ``auth``.
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
        """Return the current value of the header.

        Raises:
            TempoError: a secret file cannot be read.
        """
        token = self._token_file.value() if self._token_file else self._token
        if token:
            return f"Bearer {token}"
        if self._username:
            password = self._password_file.value() if self._password_file else self._password
            return f"Basic {_basic(self._username, password)}"
        return None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header to a request; called by requests."""
        authorization = self.authorization()
        if authorization is not None:
            # Bytes, because http.client encodes text as Latin-1.
            request.headers["Authorization"] = authorization.encode()  # type: ignore[assignment]
        return request

    def mask(self, text: str) -> str:
        """Replace all known secrets in a text: servers may quote what they were sent."""
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
    """Yield the passwords of the proxies in the environment, in plain text and as sent."""
    for address in getproxies().values():
        try:
            parts = urlsplit(address)
        except ValueError:
            continue  # the request itself will fail with a message
        if parts.password:
            username, password = unquote(parts.username or ""), unquote(parts.password)
            yield from (parts.password, password, _basic(username, password))


def _secret_file(path: str | None, setting: str) -> SecretFile | None:
    return SecretFile(path, setting) if path else None


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
