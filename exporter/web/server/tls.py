"""TLS for waitress, which has none: a channel that shakes hands and decrypts in the loop that serves all connections.

So TLS costs no thread: a client that is silent in the middle of its handshake holds a socket, as one without TLS does,
and is closed after the same time.
"""

import errno
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from exporter.web.server.channel import Channel

_RECORD_BYTES: Final = 16 << 10
"""The most that a TLS record holds. Who reads as much at once leaves nothing behind that poll() would not know of."""

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
    """How to serve TLS; names of suites and curves are those of the registry of TLS and of Go.

    Attributes:
        cert_file: the certificate, and those between it and its authority (PEM).
        key_file: its key (PEM), not encrypted.
        client_ca_file: authorities that clients' certificates must be signed by.
        client_auth: whether clients must show one.
        minimum: the oldest version offered.
        maximum: the newest.
        suites: suites offered to TLS 1.2; empty for OpenSSL's own choice.
        prefer_server_suites: whether the order of these decides, and not the client's.
        curve: the only curve for the key exchange; absent for OpenSSL's own choice.
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
    """A file of the TLS settings cannot be used.

    Attributes:
        problems: all that is wrong, a sentence each that begins with the key.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """What connections are encrypted with.

    Raises:
        TlsError: a file cannot be read, or is not what it should be.
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
            # Asked for a passphrase, OpenSSL would wait for somebody at the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            reason = (getattr(error, "reason", None) or "no PEM, or an encrypted key").replace("_", " ").lower()
            problems.append(
                f"tls_server_config.cert_file {settings.cert_file} and key_file {settings.key_file} are no certificate "
                f"and the key that belongs to it, unencrypted: {reason}"
            )
    if settings.client_ca_file is not None:
        if problem := _unreadable("client_ca_file", settings.client_ca_file):
            problems.append(problem)
        else:
            try:
                context.load_verify_locations(settings.client_ca_file)
            except ssl.SSLError:
                problems.append(
                    f"tls_server_config.client_ca_file {settings.client_ca_file} holds no certificate in PEM form"
                )
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
    """A connection that is encrypted.

    The loop reads and a worker may write at the same time, which OpenSSL does not allow on one connection: they take
    turns, for as long as it takes to encrypt or decrypt some records. Nobody ever waits for the client in that turn.
    """

    socket: ssl.SSLSocket | None

    def __init__(self, server: Any, sock: ssl.SSLSocket, addr: Any, adj: Any, map: Any = None) -> None:  # noqa: A002
        self._turn = threading.RLock()
        self._shaken = False
        self._wants_to_write = False
        super().__init__(server, sock, addr, adj, map=map)

    # What the loop waits for

    def readable(self) -> bool:
        """Whether to wait for something to read."""
        if self._shaken:
            return bool(super().readable())
        return not (self.will_close or self._wants_to_write)

    def writable(self) -> bool:
        """Whether to wait for room to write."""
        return self._wants_to_write or bool(super().writable())

    def handle_read(self) -> None:
        """Go on with the handshake, or take in what has come."""
        if not (self._shaken or self._shake()):
            return
        try:
            data = self.recv(_RECORD_BYTES)
        except BlockingIOError:
            return
        if data:
            self.last_activity = time.time()
            self.received(data)

    def handle_write(self) -> None:
        """Go on with the handshake, or write what is due."""
        if self._shaken or self.will_close:
            super().handle_write()
        else:
            self._shake()

    def _shake(self) -> bool:
        """A step of the handshake; says whether it is done."""
        self._wants_to_write = False
        try:
            if self.socket is not None:
                self.socket.do_handshake()
                self._shaken = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self._wants_to_write = True
        except (OSError, ValueError):
            # A scanner, a client without TLS or without the right certificate: its own end says why.
            self.handle_close()
        return self._shaken

    # What the channel reads and writes with

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Write as much as there is room for; called by the loop and by workers, who leave closing to the loop."""
        with self._turn:
            if self.socket is None:
                return 0
            try:
                return self.socket.send(data)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return 0
            except (OSError, ValueError):
                pass
        if do_close:
            self.handle_close()
        return 0

    def recv(self, buffer_size: int) -> bytes:
        """Read; nothing at the end of the connection, which is closed then.

        Raises:
            BlockingIOError: there is nothing to read now.
        """
        with self._turn:
            try:
                data = b"" if self.socket is None else self.socket.recv(buffer_size)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError(errno.EWOULDBLOCK, "nothing to read yet") from error
            except (OSError, ValueError):
                data = b""
        if not data:
            self.handle_close()
        return data

    # Both ways in which waitress closes a channel; a worker's turn and its buffers come in this order everywhere.

    def handle_close(self) -> None:
        """The connection is over."""
        with self.outbuf_lock, self._turn:
            self._take_leave()
            super().handle_close()

    def close(self) -> None:
        """The server is over."""
        with self.outbuf_lock, self._turn:
            self._take_leave()
            super().close()

    def _take_leave(self) -> None:
        """Say that nothing more will come, without waiting for an answer."""
        if self._shaken and self.socket is not None:
            with suppress(OSError, ValueError):
                self.socket.unwrap()


def encrypted(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """An accepted connection with TLS before it; nothing has been exchanged yet.

    Raises:
        OSError: the client is gone; the connection is closed.
    """
    try:
        connection.setblocking(False)
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        connection.close()
        raise ConnectionAbortedError(errno.ECONNABORTED, "the client is gone") from error
