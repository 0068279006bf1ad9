"""Ids in span names."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.placeholders import with_placeholders

HERE = Path(__file__).parent
NAMES = st.text(st.sampled_from("aefGx0123456789/-_.:@ {}%=#é"), max_size=60)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GET /orders/17", "GET /orders/{number}"),
        ("GET /orders/17/items/3", "GET /orders/{number}/items/{number}"),
        ("GET /orders/17?page=2&size=50", "GET /orders/{number}?page={number}&size={number}"),
        ("GET /files/17.json", "GET /files/{number}.json"),
        ("process job-184467", "process job-{number}"),
        ("order 20731 shipped", "order {number} shipped"),
        ("GET /users/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "GET /users/{uuid}"),
        ("GET /users/3F2504E0-4F89-11D3-9A0C-0305E82C3301/cart", "GET /users/{uuid}/cart"),
        ("GET /blobs/da39a3ee5e6b4b0d3255bfef95601890afd80709", "GET /blobs/{hex}"),
        ("GET /commit/9fceb02d", "GET /commit/{hex}"),
        ("read 0x7ffd9a", "read {hex}"),
        ("GET /t/4bf92f3577b34da6a3ce929d0e0e4736", "GET /t/{hex}"),
        ("GET /by-email/jane.doe+x@example.co.uk", "GET /by-email/{email}"),
        ("GET /by-email/jane%40example.com/cart", "GET /by-email/{email}/cart"),
        ("GET /report/2026-11-24", "GET /report/{date}"),
        ("GET /report/2026-11-24T08:15:00Z", "GET /report/{date}"),
        ("GET /report/2026-11-24T08%3A15%3A00+01:00/pdf", "GET /report/{date}/pdf"),
        ("GET /archive/2026/11/24", "GET /archive/{number}/{number}/{number}"),
    ],
)
def test_an_id_becomes_what_it_is(name: str, expected: str) -> None:
    assert with_placeholders(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "GET /cart",
        "GET /api/v2/recommendations",
        "catalog.v1.Catalog/GetPrices",
        "HTTP/1.1 GET",
        "TLS 1.3 handshake",
        "step 2 of 3",
        "GET /s3/upload",
        "POST /oauth2/token",
        "sha256 verify",
        "facade decade defaced",
        "GET /orders/{id}",
        "@Scheduled cleanup",
        "topic.0.retry",
        "GET /x86_64/packages",
        "base64 decode",
    ],
)
def test_what_may_be_a_name_is_left(name: str) -> None:
    assert with_placeholders(name) == name


def test_ids_of_all_kinds_become_placeholders() -> None:
    lines = (HERE / "names_with_ids.tsv").read_text(encoding="utf-8").splitlines()
    expected = dict(line.split("\t") for line in lines)
    assert len(expected) >= 600
    assert {name: with_placeholders(name) for name in expected} == expected


def test_names_without_ids_are_unchanged() -> None:
    names = (HERE / "names_without_ids.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) >= 600
    assert [f"{name} became {with_placeholders(name)}" for name in names if with_placeholders(name) != name] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cus_NffrFeUfNV2Hib", "cus_{id}"),
        ("GET /accounts/acc_048f793fb856/close", "GET /accounts/acc_{hex}/close"),
        ("GET /interfaces/%7B3F2504E0-4F89-11D3-9A0C-0305E82C3301%7D/state", "GET /interfaces/{uuid}/state"),
        ("exec checkout-7d9f8b6c5d-x2kqz", "exec checkout-{pod}"),
        ("backup-28391040-x7k2p run", "backup-{pod} run"),
        ("dial tcp [2001:db8::17]:8080", "dial tcp [{ip}]:{number}"),
        ("resolve ip-10-0-12-34.ec2.internal", "resolve ip-{ip}.ec2.internal"),
        ("lease 00:1b:44:11:3a:b7", "lease {mac}"),
        ("GET /a%2F17%2Fb", "GET /a%2F{number}%2Fb"),
        ("read /tmp/tmpa1b2c3d4", "read /tmp/tmp{hex}"),
        ("app-20261124T081500Z.log", "app-{date}.log"),
        ("sku-138-x", "sku-{number}-x"),
        ("sku-404-x", "sku-404-x"),
        ("user123456 sync", "user{number} sync"),
    ],
)
def test_prefix_and_suffix_of_an_id_are_kept(name: str, expected: str) -> None:
    assert with_placeholders(name) == expected


@given(NAMES)
def test_it_is_done_once_and_for_all(name: str) -> None:
    replaced = with_placeholders(name)
    assert with_placeholders(replaced) == replaced


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.sampled_from(["GET /users/{}/cart", "job:{}", "q?id={}"]))
def test_names_that_differ_in_a_number_only_are_one(first: int, second: int, form: str) -> None:
    assert with_placeholders(form.format(first)) == with_placeholders(form.format(second))


@pytest.mark.parametrize(
    "part",
    ["a@", "1-", "f", "0", "1.", "-", "a.", "%40", "2026-11-2", "eyJ", "eyJaaaaaaa.", "1:", "::", "a1B-", "_", "tmp1a",
     "%7B", "ip-1-", "V1StGXR8_Z5jdHi6B-myT/", "x2kqz-", "cus_", "?a=", "&q=+", "1.234,", "lat=1.2", "=", "aA1=", "12x",
     "1.2.3-rc.", "{id}+", "{number},", "2026-", "12:34:56", ";base64,", "/commit/", "a1b2c3", "{", "%20Jan"],
)  # fmt: skip
def test_hostile_name_of_100_kb_takes_milliseconds(part: str) -> None:
    name = part * (100_000 // len(part)) + "!"
    started_at = time.perf_counter()
    assert with_placeholders(name).endswith("!")
    # A few milliseconds; ten times that on a busy machine. Quadratic time would take minutes.
    assert time.perf_counter() - started_at < 0.5


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_name_is_accepted(name: str) -> None:
    assert with_placeholders(with_placeholders(name)) == with_placeholders(name)
