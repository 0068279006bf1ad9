"""TLS for waitress, which has none: a channel that does handshakes and decryption in the loop of all connections.

TLS needs no extra thread: a client that falls silent during its handshake occupies a socket, like one without TLS, and
is closed after the same time.
"""

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from exporter.web.server.channel import Channel

_RECORD_BYTES: Final = 16 << 10
"""Size limit of a TLS record. A read of this size leaves no decrypted bytes behind, which poll() would not report."""

_OPENSSL_SUITES: Final[Mapping[str, str]] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
_OPENSSL_CURVES: Final[Mapping[str, str]] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to serve TLS. Cipher suites and curves have the names that Go and the IANA registry use.

    Attributes:
        cert_file: the certificate chain (PEM).
        key_file: the private key (PEM), not encrypted.
        client_ca_file: the authorities that may sign client certificates (PEM).
        client_auth: whether a client needs a certificate.
        minimum: the oldest TLS version offered.
        maximum: the newest TLS version offered.
        suites: cipher suites for TLS 1.2; empty for OpenSSL's defaults.
        prefer_server_suites: whether the server's order of suites wins over the client's.
        curve: the only curve for the key exchange; absent for OpenSSL's defaults.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_auth: Literal["none", "if_given", "required"] = "none"
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    suites: Sequence[str] = ()
    prefer_server_suites: bool = True
    curve: str | None = None


class TlsError(Exception):
    """A file named in the TLS settings is unusable.

    Attributes:
        problems: one message per problem, each beginning with the configuration key.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Load the files and build the TLS context for incoming connections.

    Raises:
        TlsError: a file cannot be read or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = settings.minimum, settings.maximum
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if settings.prefer_server_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if settings.suites:
        context.set_ciphers(":".join(_OPENSSL_SUITES[suite] for suite in settings.suites))
    if settings.curve:
        context.set_ecdh_curve(_OPENSSL_CURVES[settings.curve])
    context.verify_mode = {
        "none": ssl.CERT_NONE,
        "if_given": ssl.CERT_OPTIONAL,
        "required": ssl.CERT_REQUIRED,
    }[settings.client_auth]
    named = (("cert_file", settings.cert_file), ("key_file", settings.key_file))
    problems = [problem for name, path in named if (problem := _unreadable(name, path))]
    if not problems:
        try:
            # Without a callback, OpenSSL would prompt for a passphrase on the terminal and wait.
            context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            reason = (getattr(error, "reason", None) or "not PEM, or an encrypted key").replace("_", " ").lower()
            problems.append(
                f"tls_server_config.cert_file {settings.cert_file} and key_file {settings.key_file} are not a "
                f"certificate and its unencrypted key: {reason}"
            )
    if settings.client_ca_file is not None:
        if problem := _unreadable("client_ca_file", settings.client_ca_file):
            problems.append(problem)
        else:
            try:
                context.load_verify_locations(settings.client_ca_file)
            except ssl.SSLError:
                problems.append(f"tls_server_config.client_ca_file {settings.client_ca_file} holds no PEM certificate")
    if problems:
        raise TlsError(problems)
    return context


def _unreadable(name: str, path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"tls_server_config.{name} {path} cannot be read: {reason}"
    return None


class TlsChannel(Channel):
    """An encrypted connection.

    The loop may read while a worker writes, which OpenSSL does not allow on one connection, so both take a lock. It is
    held while OpenSSL encrypts or decrypts a few records, never while waiting for the client.
    """

    socket: ssl.SSLSocket | None

    def __init__(
        self,
        server: Any,
        sock: ssl.SSLSocket,
        addr: Any,
        adj: Any,
        map: Any = None,  # noqa: A002 - the name that waitress gave it
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ssl_lock = threading.RLock()
        self._handshake_done = False
        self._handshake_needs_write = False
        super().__init__(server, sock, addr, adj, map=map, monotonic=monotonic)

    # What the loop polls for, and calls.

    def readable(self) -> bool:
        """Whether to wait until the socket is readable."""
        if self._handshake_done:
            return bool(super().readable())
        return not (self.will_close or self._handshake_needs_write)

    def writable(self) -> bool:
        """Whether to wait until the socket is writable."""
        return self._handshake_needs_write or bool(super().writable())

    def handle_read(self) -> None:
        """Continue the handshake, or receive data."""
        if not (self._handshake_done or self._continue_handshake()):
            return
        try:
            data = self.recv(_RECORD_BYTES)
        except BlockingIOError:
            return
        if data:
            self.received(data)

    def handle_write(self) -> None:
        """Continue the handshake, or send what is queued."""
        if self._handshake_done or self.will_close:
            super().handle_write()
        else:
            self._continue_handshake()

    def _continue_handshake(self) -> bool:
        """Do one step of the handshake; return whether it is done."""
        self._handshake_needs_write = False
        try:
            if self.socket is not None:
                self.socket.do_handshake()
                self._handshake_done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self._handshake_needs_write = True
        except (OSError, ValueError):
            # A scanner, a client without TLS, or one without a valid certificate: OpenSSL tells the client why.
            self.handle_close()
        return self._handshake_done

    # Socket access, by the loop and by workers.

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send as much as the socket takes now; workers pass ``do_close=False`` and leave closing to the loop."""
        with self._ssl_lock:
            if self.socket is None:
                return 0
            sent: int | None
            try:
                sent = self.socket.send(data)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return 0
            except (OSError, ValueError):
                sent = None
        if sent is None:
            if do_close:
                self.handle_close()
            return 0
        if sent:
            self._mark_active()
        return sent

    def recv(self, buffer_size: int) -> bytes:
        """Read decrypted data; empty at the end of the connection, which is then closed.

        Raises:
            BlockingIOError: no complete record has arrived.
        """
        with self._ssl_lock:
            try:
                data = b"" if self.socket is None else self.socket.recv(buffer_size)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError(errno.EWOULDBLOCK, "no complete TLS record yet") from error
            except (OSError, ValueError):
                data = b""
        if data:
            self._mark_active()
        else:
            self.handle_close()
        return data

    # waitress closes a channel in either of two ways. Lock order everywhere: outbuf_lock, then _ssl_lock.

    def handle_close(self) -> None:
        """Close the connection."""
        with self.outbuf_lock, self._ssl_lock:
            self._send_close_notify()
            super().handle_close()

    def close(self) -> None:
        """Close the connection because the server stops."""
        with self.outbuf_lock, self._ssl_lock:
            self._send_close_notify()
            super().close()

    def _send_close_notify(self) -> None:
        """Tell the client that the connection ends, without waiting for its response."""
        if self._handshake_done and self.socket is not None:
            with suppress(OSError, ValueError):
                self.socket.unwrap()


def wrap_tls(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Wrap an accepted connection in TLS; the handshake has not begun yet.

    Raises:
        OSError: the client is gone; the connection is closed.
    """
    try:
        connection.setblocking(False)
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        connection.close()
        raise ConnectionAbortedError(errno.ECONNABORTED, "the client is gone") from error
