"""Settings of the Tempo client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from exporter.model.failure_rule import STATUS_IS_ERROR, FailureRule
from exporter.model.identity import BY_NAME, SeriesIdentity

Scope = Literal["root", "entry"]
"""Which spans are read: root spans only, or the root, server and consumer spans of every service."""


@dataclass(frozen=True, slots=True, repr=False)
class ClientSettings:
    """Address, credentials, query and limits for one Tempo.

    Attributes:
        url: base URL of Tempo's HTTP API, including the path prefix of a gateway if there is one.
        scope: which spans are read.
        filter: TraceQL conditions that every span must also meet; empty for none.
        identity: the rules by which a span gets its series.
        failures: the rule by which a span has failed; None where that is not read.
        limit: maximum number of traces per search.
        timeout_seconds: maximum duration of one request, from connecting to the last byte.
        max_concurrency: maximum number of concurrent requests, over all loops.
        requests_per_second: maximum rate at which requests start, over all loops.
        tenant: value of ``X-Scope-OrgID``; empty for none.
        headers: sent with every request.
        auth_token: bearer token; empty for none.
        auth_token_file: file with the bearer token, reread when it changes.
        username: for basic authentication; empty for none.
        password: for basic authentication.
        password_file: file with the password, reread when it changes.
        ca_file: CA certificates to trust instead of the system's.
        cert_file: client certificate.
        key_file: key of the client certificate, unless ``cert_file`` contains it.
        insecure_skip_verify: accept any server certificate.
        max_age_seconds: a span that began longer than this before the searched range is invalid: Tempo cannot have held
            it then.
        max_duration_seconds: a span that takes longer is invalid.
        max_body_bytes: a longer response body (after decompression) is rejected.
    """

    url: str = "http://localhost:3200"
    scope: Scope = "entry"
    filter: str = ""
    identity: SeriesIdentity = BY_NAME
    failures: FailureRule | None = STATUS_IS_ERROR
    limit: int = 20_000
    timeout_seconds: float = 15.0
    max_concurrency: int = 4
    requests_per_second: float = 20.0
    tenant: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    auth_token: str = ""
    auth_token_file: str | None = None
    username: str = ""
    password: str = ""
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure_skip_verify: bool = False
    max_age_seconds: float = 30 * 86_400.0
    max_duration_seconds: float = 86_400.0
    max_body_bytes: int = 512 * 1024 * 1024

    @property
    def base_url(self) -> str:
        """The URL without credentials, query and trailing slash; safe to log."""
        parts = urlsplit(self.url)
        return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "").geturl()

    @property
    def url_credentials(self) -> tuple[str, str] | None:
        """User name and password, if the URL contains them."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return None
        return unquote(parts.username), unquote(parts.password or "")

    def __repr__(self) -> str:
        """Show only fields that cannot hold a secret."""
        return (
            f"ClientSettings(url={self.base_url!r}, scope={self.scope!r}, filter={self.filter!r}, "
            f"identity={str(self.identity)!r}, limit={self.limit}, "
            f"timeout_seconds={self.timeout_seconds}, max_concurrency={self.max_concurrency}, "
            f"requests_per_second={self.requests_per_second}, tenant={self.tenant!r})"
        )
