"""``web.config_file``: what is accepted and what is refused."""

from pathlib import Path

import pytest
import trustme

from exporter.app.settings import web_config_state
from exporter.config import ConfigError
from exporter.config.web import WebConfig, load_web_config
from tests.support.certificates import write_authority, write_pair
from tests.support.programs import run_program

HASH = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
PAIR = "cert_file: server.crt, key_file: server.key"

ACCEPTED = {
    "nothing": "",
    "empty sections": "tls_server_config:\nhttp_server_config:\nbasic_auth_users:\n",
    "no TLS after all": "tls_server_config: {min_version: TLS13}",
    "a certificate": f"tls_server_config: {{{PAIR}}}",
    "a client's certificate": (
        f"tls_server_config: {{{PAIR}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: authority.crt}}"
    ),
    "a client's certificate if there is one": (
        f"tls_server_config: {{{PAIR}, client_auth_type: VerifyClientCertIfGiven, client_ca_file: authority.crt}}"
    ),
    "no client's certificate": f"tls_server_config: {{{PAIR}, client_auth_type: NoClientCert}}",
    "versions": f"tls_server_config: {{{PAIR}, min_version: TLS13, max_version: TLS13}}",
    "suites": (
        f"tls_server_config: {{{PAIR}, prefer_server_cipher_suites: false, cipher_suites: "
        "[TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]}"
    ),
    **{
        f"curve {curve}": f"tls_server_config: {{{PAIR}, curve_preferences: [{curve}]}}"
        for curve in ("CurveP256", "CurveP384", "CurveP521", "X25519")
    },
    "users": f"basic_auth_users: {{alice: {HASH}, 'bob smith': {HASH.replace('2y', '2a')}, ü: {HASH}}}",
    "http2": "http_server_config: {http2: false}",
    "headers": (
        "http_server_config: {headers: {Strict-Transport-Security: max-age=31536000, X-Frame-Options: sameorigin, "
        "X-Content-Type-Options: nosniff, X-XSS-Protection: '', Content-Security-Policy: \"default-src 'self'\"}}"
    ),
}

REFUSED = {
    "tls_server_config: {cert_fil: x}": "tls_server_config.cert_fil (line 1) is not a known key; did you mean "
    "tls_server_config.cert_file?",
    "tls_config: {}": "tls_config (line 1) is not a known key; did you mean tls_server_config?",
    "nonsense:": "nonsense (line 1) is not a known key",
    "tls_server_config: {cert: x}": "tls_server_config.cert (line 1) is not supported: write the certificate to a file",
    "tls_server_config: {client_allowed_sans: [x]}": "tls_server_config.client_allowed_sans (line 1) is not supported",
    "rate_limit: {interval: 1s}": "rate_limit (line 1) is not supported: limit requests in a proxy",
    "tls_server_config: {cert_file: server.crt}": "tls_server_config.key_file is missing",
    "tls_server_config: {client_ca_file: authority.crt}": "tls_server_config.cert_file is missing",
    f"tls_server_config: {{{PAIR}, client_ca_file: authority.crt}}": "client_ca_file needs client_auth_type",
    f"tls_server_config: {{{PAIR}, client_auth_type: RequireAndVerifyClientCert}}": "needs client_ca_file",
    f"tls_server_config: {{{PAIR}, client_auth_type: RequireAnyClientCert}}": "(line 1) would not verify client "
    "certificates",
    f"tls_server_config: {{{PAIR}, client_auth_type: requireandverifyclientcert}}": "must be one of NoClientCert",
    f"tls_server_config: {{{PAIR}, min_version: TLS11}}": "tls_server_config.min_version (line 1) is not supported",
    f"tls_server_config: {{{PAIR}, min_version: '1.3'}}": "must be one of TLS12, TLS13, not '1.3'",
    f"tls_server_config: {{{PAIR}, min_version: TLS13, max_version: TLS12}}": "must not be above max_version (TLS12)",
    f"tls_server_config: {{{PAIR}, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}}": "cipher_suites[0] (line 1) must be",
    f"tls_server_config: {{{PAIR}, cipher_suites: [TLS_AES_128_GCM_SHA256]}}": "lists no suite of TLS 1.2",
    f"tls_server_config: {{{PAIR}, curve_preferences: [X25519, CurveP256]}}": "must list a single curve",
    "tls_server_config: {min_version: }": "tls_server_config.min_version (line 1) has no value",
    "tls_server_config: 7": "tls_server_config (line 1) must be a mapping",
    "- x": "must be a mapping of keys to values",
    "basic_auth_users: {alice: hunter2hunter2}": "basic_auth_users.alice (line 1) must be the bcrypt hash",
    f"basic_auth_users: {{alice: {HASH.replace('$10$', '$03$')}}}": "basic_auth_users.alice (line 1) must be",
    f"basic_auth_users: {{alice: {HASH}, 'a:b': {HASH}}}": "is not a valid user name",
    f"basic_auth_users: {{alice: {HASH}, alice: {HASH}}}": "the key alice is a duplicate",
    "http_server_config: {headers: {X-Powered-By: x}}": "may only have Strict-Transport-Security",
    "http_server_config: {headers: {x-frame-options: deny}}": "did you mean X-Frame-Options?",
    "http_server_config: {headers: {X-Frame-Options: DENY}}": "may set X-Frame-Options only to deny or sameorigin",
    'http_server_config: {headers: {X-XSS-Protection: "a\\r\\nb: c"}}': "must be plain ASCII without line breaks",
    "http_server_config: {http2: maybe}": "http_server_config.http2 (line 1) must be true or false",
    "tls_server_config: {cert_file: gone.crt, key_file: server.key}": "gone.crt cannot be read: No such file",
    "tls_server_config: {cert_file: server.crt, key_file: gone.key}": "gone.key cannot be read: No such file",
    "tls_server_config: {cert_file: server.crt, key_file: other.key}": "key values mismatch",
    "tls_server_config: {cert_file: web.yml, key_file: server.key}": "are not a certificate and its unencrypted key",
    f"tls_server_config: {{{PAIR}, client_ca_file: server.key, client_auth_type: RequireAndVerifyClientCert}}": (
        "server.key holds no PEM certificate"
    ),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web")
    authority = trustme.CA()
    write_pair(path, authority, "server")
    write_pair(path, authority, "other")
    write_authority(path, authority, "authority")
    return path


@pytest.mark.parametrize("case", ACCEPTED)
def test_valid_files_are_accepted(directory: Path, case: str) -> None:
    file = directory / "web.yml"
    file.write_text(ACCEPTED[case], "utf-8")
    rules = web_config_state(file)
    assert (rules.tls is not None) == ("cert_file" in ACCEPTED[case])
    assert (rules.passwords is not None) == (case == "users")


def test_promtool_accepts_every_accepted_file(directory: Path) -> None:
    files = []
    for number, text in enumerate(ACCEPTED.values()):
        files.append(directory / f"accepted-{number}.yml")
        files[-1].write_text(text, "utf-8")
    checked = run_program("promtool", "check", "web-config", *map(str, files))
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("SUCCESS") == len(ACCEPTED), checked.stdout


@pytest.mark.parametrize("text", REFUSED)
def test_invalid_files_are_refused_with_the_reason(directory: Path, text: str) -> None:
    file = directory / "web.yml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as refused:
        web_config_state(file)
    assert REFUSED[text] in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert HASH not in str(refused.value)


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    file.write_text(
        "tls_server_config: {min_version: SSL3, x: 1}\nbasic_auth_users: {a: b}\nhttp_server_config: {http2: 7}\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_web_config(file)
    assert len(refused.value.problems) == 4
    assert str(refused.value).startswith(f"4 problems in {file}:")


def test_all_unreadable_files_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    file.write_text(
        "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c, "
        "client_auth_type: RequireAndVerifyClientCert}"
    )
    with pytest.raises(ConfigError) as refused:
        web_config_state(file)
    assert len(refused.value.problems) == 3


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.yml cannot be read: No such file"):
        load_web_config(tmp_path / "web.yml")


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(directory: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((directory / "server.key").read_bytes(), None)
    (directory / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    (directory / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: locked.key}")
    with pytest.raises(ConfigError, match="unencrypted"):
        web_config_state(directory / "web.yml")


def test_relative_paths_are_relative_to_the_file(directory: Path) -> None:
    file = directory / "web.yml"
    file.write_text(ACCEPTED["a certificate"])
    tls = load_web_config(file).tls_server_config
    assert (tls.cert_file, tls.key_file) == (directory / "server.crt", directory / "server.key")
    file.write_text("tls_server_config: {cert_file: /a, key_file: /b}")
    assert load_web_config(file).tls_server_config.cert_file == Path("/a")


def test_hashes_are_masked() -> None:
    assert HASH not in repr(WebConfig.model_validate({"basic_auth_users": {"alice": HASH}}))
