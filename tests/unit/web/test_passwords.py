import base64
import gc
import threading
from collections import Counter

import bcrypt
import pytest

from exporter.web.passwords import PasswordCheck, Passwords
from exporter.web.server.workers import Workers

PROMPT = Workers.PROMPT


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


HASHES = {name: bcrypt.hashpw(word.encode()[:72], bcrypt.gensalt(4)) for name, word in {
    "alice": "wonder:land", "böb": "pässword", "long": "x" * 80, "empty": "",
}.items()}  # fmt: skip


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that something was compared with: what a check costs."""
    compared: list[bytes] = []

    def checkpw(password: bytes, hash_: bytes) -> bool:
        compared.append(hash_)
        return bool(real(password, hash_))

    real = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return compared


@pytest.mark.parametrize(
    ("user", "password", "verdict"),
    [
        ("alice", "wonder:land", PasswordCheck.WELCOME),
        ("alice", "wonder", PasswordCheck.REFUSED),
        ("Alice", "wonder:land", PasswordCheck.REFUSED),
        ("alice", "", PasswordCheck.REFUSED),
        ("", "", PasswordCheck.REFUSED),
        ("böb", "pässword", PasswordCheck.WELCOME),
        ("long", "x" * 80, PasswordCheck.WELCOME),
        # What bcrypt does not see makes no difference: that is the same with every program that uses it.
        ("long", "x" * 72, PasswordCheck.WELCOME),
        ("long", "x" * 71, PasswordCheck.REFUSED),
        ("empty", "", PasswordCheck.WELCOME),
        ("alice", "wonder:land\0", PasswordCheck.REFUSED),
        ("alice", "\ud83d".encode("utf-8", "surrogatepass").decode("utf-8", "replace"), PasswordCheck.REFUSED),
    ],
)
def test_credentials(user: str, password: str, verdict: PasswordCheck) -> None:
    known = Passwords(HASHES)
    assert [known.judge(basic(user, password), PROMPT) for _ in range(2)] == [verdict, verdict]


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
def test_what_is_no_credential_is_refused_without_work(work: list[bytes], header: str) -> None:
    assert Passwords(HASHES).judge(header, PROMPT) is PasswordCheck.REFUSED
    assert work == []


def test_the_scheme_may_be_written_in_any_case() -> None:
    credential = basic("alice", "wonder:land").removeprefix("Basic ")
    assert Passwords(HASHES).judge(f"bAsIc   {credential} ", PROMPT) is PasswordCheck.WELCOME


def test_a_wrong_user_costs_as_much_as_a_wrong_password(work: list[bytes]) -> None:
    known = Passwords({"alice": HASHES["alice"], "slow": bcrypt.hashpw(b"x", bcrypt.gensalt(5))})
    known.judge(basic("slow", "wrong"), PROMPT)
    known.judge(basic("nobody", "wrong"), PROMPT)
    assert [hash_.split(b"$")[2] for hash_ in work] == [b"05", b"05"]


def test_bcrypt_is_asked_once_for_each_credential(work: list[bytes]) -> None:
    known = Passwords(HASHES)
    for _ in range(5):
        assert known.judge(basic("alice", "wonder:land"), PROMPT) is PasswordCheck.WELCOME
        assert known.judge(basic("alice", "wrong"), PROMPT) is PasswordCheck.REFUSED
        assert known.judge(basic("nobody", "wonder:land"), PROMPT) is PasswordCheck.REFUSED
    assert len(work) == 3


def test_wrong_ones_do_not_push_out_right_ones_and_are_not_kept_without_bound(work: list[bytes]) -> None:
    known = Passwords(HASHES)
    known.judge(basic("alice", "wonder:land"), PROMPT)
    for number in range(300):
        known.judge(basic("alice", str(number)), PROMPT)
    asked = len(work)
    assert known.judge(basic("alice", "wonder:land"), PROMPT) is PasswordCheck.WELCOME
    assert len(work) == asked
    known.judge(basic("alice", "0"), PROMPT)
    assert len(work) == asked + 1, "the first of 300 wrong ones is still remembered"


def test_no_password_stays_in_memory() -> None:
    known = Passwords(HASHES)
    secret = basic("alice", "wonder:land")
    known.judge(secret, PROMPT)
    reachable, waiting = {id(known)}, [known]
    while waiting:
        for held in gc.get_referents(waiting.pop()):
            if id(held) not in reachable and not isinstance(held, type) and not callable(held):
                reachable.add(id(held))
                waiting.append(held)
                assert not (isinstance(held, bytes) and b"wonder" in held)
                assert not (isinstance(held, str) and ("wonder" in held or held == secret))


def test_a_flood_of_wrong_ones_leaves_a_worker_for_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Passwords(HASHES)
    right = basic("alice", "wonder:land")
    assert known.judge(right, PROMPT) is PasswordCheck.WELCOME
    go_on = threading.Event()
    under_way = threading.Semaphore(0)

    def checkpw(password: bytes, hash_: bytes) -> bool:
        under_way.release()
        assert go_on.wait(30)
        return False

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    verdicts: list[PasswordCheck] = []
    flood = [
        threading.Thread(target=lambda n=number: verdicts.append(known.judge(basic("alice", str(n)), PROMPT)))
        for number in range(3)
    ]
    for thread in flood:
        thread.start()
    for _ in flood:
        assert under_way.acquire(timeout=30)
    assert known.judge(basic("alice", "another"), PROMPT) is PasswordCheck.BUSY
    assert known.judge(right, PROMPT) is PasswordCheck.WELCOME
    go_on.set()
    for thread in flood:
        thread.join()
    assert Counter(verdicts) == {PasswordCheck.REFUSED: 3}
    assert known.judge(basic("alice", "another"), PROMPT) is PasswordCheck.REFUSED
