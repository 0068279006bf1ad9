import base64
import gc
import threading
from collections import Counter

import bcrypt
import pytest

from exporter.web.passwords import PasswordCheck, Passwords
from exporter.web.server.workers import WorkerGroup

PROMPT = WorkerGroup.PROMPT


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


HASHES = {name: bcrypt.hashpw(word.encode()[:72], bcrypt.gensalt(4)) for name, word in {
    "alice": "wonder:land", "böb": "pässword", "long": "x" * 80, "empty": "",
}.items()}  # fmt: skip


@pytest.fixture
def compared_hashes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that bcrypt compared passwords with: each comparison is expensive."""
    compared: list[bytes] = []

    def checkpw(password: bytes, hash_: bytes) -> bool:
        compared.append(hash_)
        return bool(real(password, hash_))

    real = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return compared


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [
        ("alice", "wonder:land", PasswordCheck.ACCEPTED),
        ("alice", "wonder", PasswordCheck.REJECTED),
        ("Alice", "wonder:land", PasswordCheck.REJECTED),
        ("alice", "", PasswordCheck.REJECTED),
        ("", "", PasswordCheck.REJECTED),
        ("böb", "pässword", PasswordCheck.ACCEPTED),
        ("long", "x" * 80, PasswordCheck.ACCEPTED),
        # bcrypt ignores all but the first 72 bytes, here and in every other program that uses it.
        ("long", "x" * 72, PasswordCheck.ACCEPTED),
        ("long", "x" * 71, PasswordCheck.REJECTED),
        ("empty", "", PasswordCheck.ACCEPTED),
        ("alice", "wonder:land\0", PasswordCheck.REJECTED),
        ("alice", "\ud83d".encode("utf-8", "surrogatepass").decode("utf-8", "replace"), PasswordCheck.REJECTED),
    ],
)
def test_check_compares_user_and_password(user: str, password: str, expected: PasswordCheck) -> None:
    passwords = Passwords(HASHES)
    assert [passwords.check(basic(user, password), PROMPT) for _ in range(2)] == [expected, expected]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic %%%",
        "Basic YWxpY2U=",
        "Bearer abc",
        "Basic \xff",
        "basic " + "A" * 100_001,
        "Basic é",
    ],
)
def test_a_header_without_credentials_is_rejected_without_a_comparison(
    compared_hashes: list[bytes], header: str
) -> None:
    assert Passwords(HASHES).check(header, PROMPT) is PasswordCheck.REJECTED
    assert compared_hashes == []


def test_the_scheme_is_case_insensitive() -> None:
    credential = basic("alice", "wonder:land").removeprefix("Basic ")
    assert Passwords(HASHES).check(f"bAsIc   {credential} ", PROMPT) is PasswordCheck.ACCEPTED


def test_an_unknown_user_costs_as_much_as_a_wrong_password(compared_hashes: list[bytes]) -> None:
    passwords = Passwords({"alice": HASHES["alice"], "slow": bcrypt.hashpw(b"x", bcrypt.gensalt(5))})
    passwords.check(basic("slow", "wrong"), PROMPT)
    passwords.check(basic("unknown", "wrong"), PROMPT)
    assert [hash_.split(b"$")[2] for hash_ in compared_hashes] == [b"05", b"05"]


def test_each_credential_is_compared_once(compared_hashes: list[bytes]) -> None:
    passwords = Passwords(HASHES)
    for _ in range(5):
        assert passwords.check(basic("alice", "wonder:land"), PROMPT) is PasswordCheck.ACCEPTED
        assert passwords.check(basic("alice", "wrong"), PROMPT) is PasswordCheck.REJECTED
        assert passwords.check(basic("unknown", "wonder:land"), PROMPT) is PasswordCheck.REJECTED
    assert len(compared_hashes) == 3


def test_wrong_credentials_do_not_evict_right_ones_and_are_bounded(compared_hashes: list[bytes]) -> None:
    passwords = Passwords(HASHES)
    passwords.check(basic("alice", "wonder:land"), PROMPT)
    for number in range(300):
        passwords.check(basic("alice", str(number)), PROMPT)
    before = len(compared_hashes)
    assert passwords.check(basic("alice", "wonder:land"), PROMPT) is PasswordCheck.ACCEPTED
    assert len(compared_hashes) == before
    passwords.check(basic("alice", "0"), PROMPT)
    assert len(compared_hashes) == before + 1, "the first of 300 wrong credentials is still cached"


def test_passwords_do_not_stay_in_memory() -> None:
    passwords = Passwords(HASHES)
    secret = basic("alice", "wonder:land")
    passwords.check(secret, PROMPT)
    reachable, queue = {id(passwords)}, [passwords]
    while queue:
        for held in gc.get_referents(queue.pop()):
            if id(held) not in reachable and not isinstance(held, type) and not callable(held):
                reachable.add(id(held))
                queue.append(held)
                assert not (isinstance(held, bytes) and b"wonder" in held)
                assert not (isinstance(held, str) and ("wonder" in held or held == secret))


def test_a_flood_of_wrong_credentials_leaves_a_worker_for_cached_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(HASHES)
    right = basic("alice", "wonder:land")
    assert passwords.check(right, PROMPT) is PasswordCheck.ACCEPTED
    unblock = threading.Event()
    check_started = threading.Semaphore(0)

    def checkpw(password: bytes, hash_: bytes) -> bool:
        check_started.release()
        assert unblock.wait(30)
        return False

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    results: list[PasswordCheck] = []
    flood = [
        threading.Thread(target=lambda n=number: results.append(passwords.check(basic("alice", str(n)), PROMPT)))
        for number in range(3)
    ]
    for thread in flood:
        thread.start()
    for _ in flood:
        assert check_started.acquire(timeout=30)
    assert passwords.check(basic("alice", "another"), PROMPT) is PasswordCheck.BUSY
    assert passwords.check(right, PROMPT) is PasswordCheck.ACCEPTED
    unblock.set()
    for thread in flood:
        thread.join()
    assert Counter(results) == {PasswordCheck.REJECTED: 3}
    assert passwords.check(basic("alice", "another"), PROMPT) is PasswordCheck.REJECTED
