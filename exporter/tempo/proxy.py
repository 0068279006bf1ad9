"""The proxy that the environment names for Tempo: which variable names it, and whether it can be used."""

import os
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from requests.utils import select_proxy, should_bypass_proxies

_SUPPORTED: Final = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class EnvironmentProxy(NamedTuple):
    """A proxy from the environment.

    Attributes:
        variable: the environment variable that names it.
        address: its scheme, host and port, without user and password; only its scheme if that is all that is valid.
        problem: why requests cannot be sent through it; empty if they can.
    """

    variable: str
    address: str
    problem: str

    @property
    def advice(self) -> str:
        """What to do if requests do not get through, as a sentence."""
        return (
            f"Requests to Tempo go through the proxy in {self.variable} ({self.address}): check it, or list Tempo's "
            f"host in NO_PROXY to connect without it"
        )


def environment_proxy(url: str) -> EnvironmentProxy | None:
    """Return the proxy through which requests to a URL are sent; None without one."""
    if bypasses_proxy(url) or should_bypass_proxies(url, no_proxy=None):
        return None
    proxies = getproxies()
    text = select_proxy(url, proxies)
    if not text:
        return None
    variable = _variable(next(name for name in _names(urlsplit(url)) if proxies.get(name) == text))
    try:
        # requests takes an address without a scheme for an HTTP proxy.
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    except ValueError:
        return EnvironmentProxy(variable, "not a URL", "it is not a valid URL")
    if not host:
        return EnvironmentProxy(variable, f"{parts.scheme}://", "it has no host")
    problem = "" if parts.scheme in _SUPPORTED else f"only {', '.join(_SUPPORTED)} are supported"
    return EnvironmentProxy(variable, f"{parts.scheme}://{host}{port}", problem)


def bypasses_proxy(url: str) -> bool:
    """Return whether ``NO_PROXY`` lists the host of a URL with its port, or as an IPv6 address in brackets.

    requests compares a port only with host names, not with addresses, and only if the URL contains it.
    """
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    listed = getproxies().get("no", "").casefold().replace(" ", "").split(",")
    names = {parts.hostname or "", f"[{parts.hostname}]"}
    return any(name in listed or f"{name}:{port}" in listed for name in names if name.strip("[]"))


def _names(parts: SplitResult) -> list[str]:
    """Return the keys under which requests looks for a proxy, in its order."""
    return [f"{parts.scheme}://{parts.hostname}", parts.scheme, f"all://{parts.hostname}", "all"]


def _variable(name: str) -> str:
    variable = f"{name}_proxy"
    return variable if variable in os.environ else variable.upper()
