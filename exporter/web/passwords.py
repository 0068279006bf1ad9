"""Basic authentication against bcrypt hashes, which are slow on purpose and therefore asked as rarely as possible."""

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
from exporter.web.server.workers import Workers

_BCRYPT_BYTES: Final = 72
"""bcrypt knows no more of a password than this; htpasswd and the exporter toolkit cut it off as well."""
_REMEMBERED: Final = 128


class PasswordCheck(Enum):
    """What becomes of a request."""

    WELCOME = "welcome"
    REFUSED = "refused"
    BUSY = "busy"


class Passwords:
    """The users and their passwords.

    A credential that was checked is remembered, by its HMAC under a key that only this process has: neither the
    passwords nor anything that could be compared with a list of likely ones stays in memory. Those that were right and
    those that were wrong are remembered apart, so that the wrong ones cannot push the right ones out.
    """

    def __init__(self, users: Mapping[str, bytes]) -> None:
        """Know some users.

        Args:
            users: the bcrypt hash of each one's password; at least one.
        """
        self._users = {name.encode("utf-8"): hash_ for name, hash_ in users.items()}
        # For an unknown user: no password is known for it, and checking one takes as long as for the others.
        cost = max(int(hash_.split(b"$")[2]) for hash_ in users.values())
        self._nobody = bcrypt.gensalt(cost) + b"." * 31
        self._key = secrets.token_bytes(32)
        self._lock = new_lock(LockRank.PASSWORDS)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._slots = {group: threading.BoundedSemaphore(group.busy) for group in Workers}

    def judge(self, authorization: str, workers: Workers) -> PasswordCheck:
        """Judge a request by its ``Authorization`` header, and who answers it.

        Busy where so many of those are checking passwords that this one would keep the last from the others: whoever
        floods the exporter with wrong passwords leaves a worker for those with a right one.
        """
        credential = _credential(authorization)
        if credential is None:
            return PasswordCheck.REFUSED
        # One colon is the separator: a user's name has none, so the whole says who and what.
        digest = hmac.digest(self._key, credential, "sha256")
        if (known := self._recall(digest)) is not None:
            return known
        slots = self._slots[workers]
        if not slots.acquire(blocking=False):
            return PasswordCheck.BUSY
        try:
            right = self._check(credential)
        finally:
            slots.release()
        self._remember(digest, self._right if right else self._wrong)
        return PasswordCheck.WELCOME if right else PasswordCheck.REFUSED

    def _check(self, credential: bytes) -> bool:
        name, _, password = credential.partition(b":")
        hash_ = self._users.get(name)
        # Compares in constant time, and does the same work whether there is such a user or not.
        matches = bcrypt.checkpw(password[:_BCRYPT_BYTES], self._nobody if hash_ is None else hash_)
        return matches and hash_ is not None

    def _recall(self, digest: bytes) -> PasswordCheck | None:
        with self._lock:
            for remembered, verdict in ((self._right, PasswordCheck.WELCOME), (self._wrong, PasswordCheck.REFUSED)):
                if digest in remembered:
                    remembered.move_to_end(digest)
                    return verdict
        return None

    def _remember(self, digest: bytes, among: OrderedDict[bytes, None]) -> None:
        with self._lock:
            among[digest] = None
            if len(among) > _REMEMBERED:
                among.popitem(last=False)


def _credential(authorization: str) -> bytes | None:
    """User and password, separated by a colon; absent where there is no such thing."""
    scheme, _, encoded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        credential = base64.b64decode(encoded.strip().encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return credential if b":" in credential else None
