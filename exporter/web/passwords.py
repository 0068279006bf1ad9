"""Basic authentication against bcrypt hashes.

bcrypt is slow on purpose, so the result for each credential is cached.
"""

import base64
import binascii
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from typing import Final

import bcrypt

from exporter.runtime.locks import LockRank, new_lock
from exporter.web.server.workers import WorkerGroup

_BCRYPT_BYTES: Final = 72
"""bcrypt ignores the rest of a longer password; htpasswd and the exporter toolkit truncate as well."""
_CACHED_RESULTS: Final = 128


class PasswordCheck(Enum):
    """Result of checking a request's credentials."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    BUSY = "busy"
    """Not checked: too many checks are running."""


class Passwords:
    """The users and their password hashes. Thread-safe.

    Results are cached by the HMAC of the credential, under a key that only this process has: memory holds neither a
    password nor anything that could be compared with a list of likely ones. Accepted and rejected credentials have
    separate caches, so that a flood of wrong ones cannot evict the right ones.
    """

    def __init__(self, users: Mapping[str, bytes]) -> None:
        """Take the users.

        Args:
            users: bcrypt hash by user name; at least one.
        """
        self._users = {name.encode("utf-8"): hash_ for name, hash_ in users.items()}
        # Compared with for unknown users: no password matches it, and a check takes as long as for a known user.
        cost = max(int(hash_.split(b"$")[2]) for hash_ in users.values())
        self._dummy_hash = bcrypt.gensalt(cost) + b"." * 31
        self._key = secrets.token_bytes(32)
        self._lock = new_lock(LockRank.PASSWORDS)
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self._running_checks = {group: threading.BoundedSemaphore(group.max_blocked) for group in WorkerGroup}

    def check(self, authorization: str, workers: WorkerGroup) -> PasswordCheck:
        """Check the credentials of a request.

        Args:
            authorization: the ``Authorization`` header, empty if the request has none.
            workers: the group that serves the request. When all but one of its threads are checking passwords, the
                result is `PasswordCheck.BUSY`, so that cached credentials are still served.
        """
        credential = _credential(authorization)
        if credential is None:
            return PasswordCheck.REJECTED
        # User names contain no colon, so the user:password string is unambiguous.
        digest = hmac.digest(self._key, credential, "sha256")
        if (cached := self._cached(digest)) is not None:
            return cached
        running = self._running_checks[workers]
        if not running.acquire(blocking=False):
            return PasswordCheck.BUSY
        try:
            matches = self._matches(credential)
        finally:
            running.release()
        self._cache(digest, self._accepted if matches else self._rejected)
        return PasswordCheck.ACCEPTED if matches else PasswordCheck.REJECTED

    def _matches(self, credential: bytes) -> bool:
        name, _, password = credential.partition(b":")
        hash_ = self._users.get(name)
        # checkpw compares in constant time; the dummy hash makes unknown users take as long as known ones.
        matches = bcrypt.checkpw(password[:_BCRYPT_BYTES], self._dummy_hash if hash_ is None else hash_)
        return matches and hash_ is not None

    def _cached(self, digest: bytes) -> PasswordCheck | None:
        with self._lock:
            for cache, result in (
                (self._accepted, PasswordCheck.ACCEPTED),
                (self._rejected, PasswordCheck.REJECTED),
            ):
                if digest in cache:
                    cache.move_to_end(digest)
                    return result
        return None

    def _cache(self, digest: bytes, cache: OrderedDict[bytes, None]) -> None:
        with self._lock:
            cache[digest] = None
            if len(cache) > _CACHED_RESULTS:
                cache.popitem(last=False)


def _credential(authorization: str) -> bytes | None:
    """Decode ``user:password`` from an ``Authorization`` header; None if it holds no basic credentials."""
    scheme, _, encoded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        credential = base64.b64decode(encoded.strip().encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return credential if b":" in credential else None
