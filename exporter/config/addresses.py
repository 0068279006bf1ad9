"""Which addresses on a command line can be asked over HTTP."""

from urllib.parse import SplitResult, urlsplit


def http_parts(text: str) -> SplitResult | None:
    """The parts of a URL over HTTP that names a host; None where a text is no such URL."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None
