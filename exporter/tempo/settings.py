"""What the client needs to know to talk to one Tempo."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

Scope = Literal["root", "entry"]
"""Which spans are read: root spans, or root, server and consumer spans of every service."""


@dataclass(frozen=True, slots=True, repr=False)
class ClientSettings:
    """Where Tempo is, how to sign in, what to ask for and how hard.

    Attributes:
        url: the base of Tempo's HTTP API, with a path prefix where a gateway wants one.
        scope: which spans are read.
        filter: TraceQL conditions that every span must meet as well; empty for none.
        limit: the most traces that a search may return.
        timeout_seconds: the longest that one request may take, from connecting to the last byte.
        max_concurrency: requests under way at the same time, all loops together.
        requests_per_second: requests begun per second, all loops together.
        tenant: sent as ``X-Scope-OrgID``; empty for none.
        headers: sent with every request.
        auth_token: bearer token; empty for none.
        auth_token_file: a file with the bearer token, read again when it changes.
        username: for basic authentication; empty for none.
        password: for basic authentication.
        password_file: a file with the password, read again when it changes.
        ca_file: certificates to trust instead of the system's.
        cert_file: client certificate.
        key_file: its key, where ``cert_file`` does not hold it.
        insecure_skip_verify: whether any server certificate will do.
        max_body_bytes: an answer longer than this, after decompression, is not read.
    """

    url: str = "http://localhost:3200"
    scope: Scope = "root"
    filter: str = ""
    limit: int = 5000
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
    max_body_bytes: int = 512 * 1024 * 1024

    @property
    def base_url(self) -> str:
        """The URL without credentials, query and trailing slash: paths are appended to it, and people may see it."""
        parts = urlsplit(self.url)
        return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "").geturl()

    @property
    def url_credentials(self) -> tuple[str, str] | None:
        """User name and password where the URL holds them."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return None
        return unquote(parts.username), unquote(parts.password or "")

    def __repr__(self) -> str:
        """Names what is safe to show; whatever may hold a secret is left out."""
        return (
            f"ClientSettings(url={self.base_url!r}, scope={self.scope!r}, filter={self.filter!r}, limit={self.limit}, "
            f"timeout_seconds={self.timeout_seconds}, max_concurrency={self.max_concurrency}, "
            f"requests_per_second={self.requests_per_second}, tenant={self.tenant!r})"
        )
