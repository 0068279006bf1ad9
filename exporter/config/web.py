"""``web.config_file``: TLS and basic authentication, in the format of Prometheus' exporter toolkit.

Features of the toolkit that this exporter lacks are refused and never ignored silently: a configured protection must be
effective. ``promtool check web-config`` accepts every file that is accepted here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError

from exporter.config.document import EntryPath, read_document
from exporter.config.load import ConfigError
from exporter.config.problem import EntryProblem, dotted
from exporter.config.schema import Section
from exporter.config.values import Boolean, FilePath, HeaderText
from exporter.config.wording import hint, nearest, shown

TlsVersion = Literal["TLS12", "TLS13"]
ClientAuth = Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]
Curve = Literal["CurveP256", "CurveP384", "CurveP521", "X25519"]

_TLS13_SUITES: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_SUITES: Final = (
    *_TLS13_SUITES,
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
)
"""Names as in Go. Suites with CBC or without forward secrecy are not supported."""

_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
"""The headers that the toolkit can set, and their allowed values where they have a closed list."""

_UNSUPPORTED: Final = {
    "tls_server_config.cert": "is not supported: write the certificate to a file and set cert_file",
    "tls_server_config.key": "is not supported: write the key to a file and set key_file",
    "tls_server_config.client_ca": "is not supported: write the CA certificate to a file and set client_ca_file",
    "tls_server_config.client_allowed_sans": "is not supported: sign certificates of allowed clients with their own CA",
    "rate_limit": "is not supported: limit requests in a proxy",
}


def _exactly(*names: str, unsupported: Mapping[str, str] | None = None) -> BeforeValidator:
    """Return a validator for a closed list of names, in exactly this spelling."""

    def check(value: object) -> object:
        if value in (unsupported or {}):
            raise ValueError((unsupported or {})[str(value)])
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {shown(value)}{hint(str(value), names)}")
        return value

    return BeforeValidator(check)


def _bcrypt(secret: SecretStr) -> SecretStr:
    """Validate a bcrypt hash; the value may be the password by mistake, so the message does not contain it."""
    if not re.fullmatch(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}", secret.get_secret_value()):
        raise ValueError("must be the bcrypt hash of a password, as htpasswd -nBC 10 '' prints it")
    return secret


def _user(name: str) -> str:
    if not name or ":" in name or not name.isprintable():
        raise ValueError("is not a valid user name: it must not be empty or contain a colon or control characters")
    return name


def _headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if name not in _HEADERS:
            raise ValueError(f"may only have {', '.join(_HEADERS)}, not {shown(name)}{hint(name, _HEADERS)}")
        if _HEADERS[name] and value not in _HEADERS[name]:
            raise ValueError(f"may set {name} only to {' or '.join(_HEADERS[name])}, not {shown(value)}")
    return headers


_OLD_TLS: Final = "is not supported: TLS 1.0 and 1.1 are insecure and deprecated (RFC 8996); set TLS12 or TLS13"
_UNVERIFIED: Final = "would not verify client certificates, so it would not protect: set RequireAndVerifyClientCert"
_Version = Annotated[TlsVersion, _exactly("TLS12", "TLS13", unsupported=dict.fromkeys(("TLS10", "TLS11"), _OLD_TLS))]
_ClientAuth = Annotated[
    ClientAuth,
    _exactly(
        "NoClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
        unsupported=dict.fromkeys(("RequestClientCert", "RequireAnyClientCert", "RequireClientCert"), _UNVERIFIED),
    ),
]
_Suite = Annotated[str, _exactly(*_SUITES)]
_Curve = Annotated[Curve, _exactly("CurveP256", "CurveP384", "CurveP521", "X25519")]


class TlsServer(Section):
    """``tls_server_config``."""

    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    client_auth_type: _ClientAuth = "NoClientCert"
    client_ca_file: FilePath | None = None
    min_version: _Version = "TLS12"
    max_version: _Version = "TLS13"
    cipher_suites: tuple[_Suite, ...] = ()
    prefer_server_cipher_suites: Boolean = True
    curve_preferences: tuple[_Curve, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether TLS is configured."""
        return bool(self.cert_file or self.key_file or self.client_ca_file or self.client_auth_type != "NoClientCert")

    @property
    def tls12_suites(self) -> tuple[str, ...]:
        """The suites of TLS 1.2; those of TLS 1.3 are always enabled, as in Go."""
        return tuple(suite for suite in self.cipher_suites if suite not in _TLS13_SUITES)


class HttpServer(Section):
    """``http_server_config``."""

    http2: Boolean = True
    headers: Annotated[Mapping[str, HeaderText], AfterValidator(_headers)] = Field(default_factory=dict)


class WebConfig(Section):
    """The whole file."""

    tls_server_config: TlsServer = Field(default_factory=TlsServer)
    http_server_config: HttpServer = Field(default_factory=HttpServer)
    basic_auth_users: Mapping[Annotated[str, AfterValidator(_user)], Annotated[SecretStr, AfterValidator(_bcrypt)]] = (
        Field(default_factory=dict)
    )

    def beside(self, directory: Path) -> Self:
        """Return a copy whose relative paths are relative to a directory."""
        tls = self.tls_server_config
        names = ("cert_file", "key_file", "client_ca_file")
        paths = {name: directory / path for name in names if (path := getattr(tls, name)) is not None}
        return self.model_copy(update={"tls_server_config": tls.model_copy(update=paths)})


def load_web_config(path: Path) -> WebConfig:
    """Read and validate the file, but not the certificates and keys that it names.

    Raises:
        ConfigError: the file is invalid; the message lists all errors.
    """
    document = read_document(path)
    problems = list(document.problems)
    tree = {} if document.tree is None else document.tree
    config = WebConfig()
    if not isinstance(tree, dict):
        problems.append(f"{path} must be a mapping of keys to values")
    elif not document.broken:
        known = WebConfig.model_fields
        sections = {name: value for name, value in tree.items() if value is not None or name not in known}
        try:
            config = WebConfig.model_validate(sections)
        except ValidationError as invalid:
            origins = {entry: f"line {line}" for entry, line in document.lines.items()}
            for error in invalid.errors(include_url=False):
                found = EntryProblem.of(error, _suggest)
                unsupported = _UNSUPPORTED.get(".".join(map(str, found.path)))
                problems.append(found._replace(text=unsupported or found.text).message(origins))
        else:
            problems += _contradictions(config)
    if problems:
        raise ConfigError(problems, str(path))
    return config.beside(path.parent)


def _contradictions(config: WebConfig) -> Iterator[str]:
    tls = config.tls_server_config
    section = "tls_server_config"
    if tls.enabled:
        for name in ("cert_file", "key_file"):
            if getattr(tls, name) is None:
                yield f"{section}.{name} is missing: TLS needs a certificate and its key"
    if tls.client_ca_file and tls.client_auth_type == "NoClientCert":
        yield f"{section}.client_ca_file needs client_auth_type: RequireAndVerifyClientCert"
    if tls.client_auth_type != "NoClientCert" and not tls.client_ca_file:
        yield f"{section}.client_auth_type needs client_ca_file: the CA that signs client certificates"
    if tls.min_version > tls.max_version:
        yield f"{section}.min_version ({tls.min_version}) must not be above max_version ({tls.max_version})"
    if tls.cipher_suites and not tls.tls12_suites and tls.min_version == "TLS12":
        yield f"{section}.cipher_suites lists no suite of TLS 1.2: add one, or set min_version: TLS13"
    if len(tls.curve_preferences) > 1:
        yield f"{section}.curve_preferences must list a single curve: Python's TLS cannot order several"


def _suggest(path: EntryPath) -> str | None:
    """Return the path of a sibling with a similar name."""
    model: type[BaseModel] = WebConfig
    for section in path[:-1]:
        annotation = model.model_fields[str(section)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)  # noqa: S101
        model = annotation
    name = nearest(str(path[-1]), model.model_fields)
    return dotted((*path[:-1], name)) if name else None
