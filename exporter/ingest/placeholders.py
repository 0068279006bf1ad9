"""Replaces ids in span names by placeholders, so that ``GET /orders/17`` and ``GET /orders/18`` are one endpoint.

A span name should be one of few (OpenTelemetry's semantic conventions ask for a low cardinality), but instrumentation
often puts the raw path into it. What looks like an id by its form alone is replaced; what may be part of a name stays:
versions (``v2``, ``HTTP/1.1``), technical terms (``oauth2``, ``utf8``, ``sha-256``), short numbers that stand alone
(``step 2``) and words. An id with a prefix keeps the prefix: ``cus_NffrFeUfNV2Hib`` becomes ``cus_{id}``.
"""

import re
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from exporter.ingest.letter_pairs import bits_per_character

_MAX_EXAMINED: Final = 4096
"""Characters of a name that are examined: a bound on the time for a hostile name."""
_MAX_PASSES: Final = 4

# An escaped character such as %2F ends a word, as the character itself does.
_START: Final = r"(?:(?<![0-9A-Za-z])|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))"
_END: Final = r"(?![0-9A-Za-z])"

_NUMBERED: Final = re.compile(
    "(?i:aes|area|code|cp|crc|cs|ecma|ed|error|errors|first|gb|http|https|ieee|iso|jis|last|latin|level|md|next|past|phase|"
    "rfc|rsa|sha|stage|status|step|tier|top|utf|version|win|windows)"
)
"""Words before a number that belongs to them: ``iso-8859``, ``rfc_7231``, ``http-404``, ``top-500``."""
_UNITS: Final = frozenset({"100", "128", "160", "192", "224", "256", "320", "360", "365", "384", "512", "640", "720"})
_NAMED_NUMBERS: Final = _UNITS | {str(status.value) for status in HTTPStatus}
"""Numbers of three digits that are more often part of a name than an id. Ids among them stay, and these are few."""
_TECHNICAL_TERM: Final = re.compile(
    r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z0-9]))(?i:base(?:16|32|36|58|62|64|85)|utf_?(?:8|16|32)|ucs2|sha(?:1|2|3|224|256|384|512)|md[245]|crc(?:16|32|64)|"
    r"x25519|ed25519|curve25519|x509|secp256[kr]1|rs256|hs256|es256|oauth[12]|saml2|auth0|http[123]|h2c?|h26[45]|av1|vp[89]|"
    r"ipv?[46](?:only)?|asn1|pkcs[0-9]+|d[23]d|[23]d|wafv2|avx512|hdf5|cognito|inet6|s3|ec2|efs|r53|route53|k8s|k3s|i18n|l10n|a11y|o11y|b2b|b2c|c2b|p2p|d2c|b3|web[23]|html5|css3|es[0-9]+|"
    r"u?int(?:8|16|32|64|128)|float(?:16|32|64)|x86|x64|amd64|arm(?:64|v[678])|win(?:32|64)|neo4j|log4j2?|slf4j|"
    r"db2|mp[34]|m3u8?|mpeg[1247]|psycopg[23]|boto3|gp[23]|v[0-9]+(?:(?:alpha|beta|rc)[0-9]+)?|365|360|24x7|24h)(?![a-z])"
)
_ISO_NAMES: Final = frozenset({"iso", "cp", "x", "ed", "curve", "gb", "ieee"})


def _is_random(text: str, *, bits: float = 0.0) -> bool:
    """Return whether letters and digits look like characters drawn at random, rather than like words.

    Args:
        text: ASCII letters and digits.
        bits: the mean cost of a character to exceed; 0 for one that fits the length.
    """
    rest = _TECHNICAL_TERM.sub("", text).rstrip("0123456789")
    digits = sum(map(str.isdigit, rest))
    if digits == len(rest):
        return False
    if digits:
        if not bits:
            bits = 4.4 if len(rest) >= 20 else 4.7 if len(rest) >= 12 else 4.9 if len(rest) >= 10 else 5.9
            # Words on both sides of one number are common: "PKCS7Options".
            bits += 0.6 if len(rest) < 24 and len(re.findall("[0-9]+", rest)) == 1 else 0.0
        return len(rest) >= 8 and bits_per_character(rest) > bits
    # Without a digit, only such as change between capitals and small letters all the time.
    changes = len(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", rest))
    return len(rest) >= 12 and changes * 3 >= len(rest) and bits_per_character(rest) > (bits or 5.3)


_MAX_ID: Final = 128
"""Of longer words, only this many characters are examined."""
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}|[0-7][0-9a-hjkmnp-tv-z]{25}")


def _is_id(word: str) -> bool:
    """Return whether letters and digits are an id: a ULID, or characters at random."""
    return (_ULID.fullmatch(word) is not None and 3 <= sum(map(str.isdigit, word)) < 26) or _is_random(word)


def _is_prefixed_id(word: str) -> bool:
    """Return whether what follows ``cus_`` is an id: digits, capitals and small letters leave less doubt there."""
    return (
        len(word) >= 12
        and word.isalnum()
        and any(map(str.isdigit, word))
        and word not in (word.lower(), word.upper())
        and _is_random(word, bits=4.2)
    )


_WORDS: Final = re.compile(r"[0-9A-Za-z]+")
_NANOID: Final = 21


def _is_random_whole(pieces: list[str]) -> bool:
    """Return whether characters with hyphens and underscores among them are one id, as nanoid makes them."""
    text = "".join(pieces)
    return (
        16 <= len(text) <= 64
        and any(map(str.isupper, text))
        and any(map(str.islower, text))
        and not any(len(piece) > 4 and piece.isalpha() and bits_per_character(piece) < 4.9 for piece in pieces)
        and _is_random("".join(_WORDS.findall(text)), bits=4.7)
    )


def _replace_random(match: re.Match[str]) -> str:
    """Replace the ids among words that are joined by hyphens and underscores."""
    text = match[0]
    if len(text) > _MAX_ID:
        return "{id}" if _is_random("".join(_WORDS.findall(text[:_MAX_ID]))) else text
    # The words before an id, such as "cus_" or "order-", are its prefix; a nanoid of its usual length has none.
    prefix = re.match(r"(?:[a-z]+[_-])*", text)
    start = prefix.end() if prefix and len(text) != _NANOID else 0
    rest = text[start:]
    if start and text[start - 1] == "_" and _is_prefixed_id(rest):
        return f"{text[:start]}{{id}}"
    if ("-" in rest or "_" in rest) and _is_random_whole(re.findall(r"[0-9A-Za-z]+|[_-]+", rest)):
        return f"{text[:start]}{{id}}"
    return _WORDS.sub(lambda word: "{id}" if len(word[0]) >= 8 and _is_id(word[0]) else word[0], text)


def _replace_address(match: re.Match[str]) -> str:
    """Replace an IP address, but not ``Feed::Add``."""
    text = match[0]
    try:
        ip_address(text)
    except ValueError:
        return text
    is_plain = any(map(str.isdigit, text)) and (text == text.lower() or text == text.upper())
    return "{ip}" if is_plain else text


def _replace_temporary(match: re.Match[str]) -> str:
    """Replace the random part of a temporary file's name."""
    text = match[1] or match[2]
    before = match[0][: -len(text)]
    if re.fullmatch("(?=[0-9]*[a-f])[a-f]*[0-9][0-9a-f]*", text):
        return f"{before}{{hex}}"
    is_random = re.search("[0-9][a-zA-Z]", text) and bits_per_character(text) > 4.5
    return f"{before}{{id}}" if is_random else match[0]


def _replace_number(match: re.Match[str]) -> str:
    """Replace a number of three digits or more that stands alone or behind a hyphen or an underscore."""
    word, separator, digits = match[1] or "", match[2] or "", match[3]
    if len(digits) <= 5 and _NUMBERED.fullmatch(word):
        return match[0]
    if len(digits) == 3 and (digits in _NAMED_NUMBERS or separator not in ("-", "_")):
        return match[0]
    return f"{word}{separator}{{number}}"


def _replace_suffix(match: re.Match[str]) -> str:
    """Replace five digits or more behind a word, except in ``iso88591`` and ``x25519``."""
    if match[1].lower() in _ISO_NAMES:
        return match[0]
    return f"{match[1]}{{number}}"


_Replacement = str | Callable[[re.Match[str]], str]

_POD: Final = "[bcdfghjklmnpqrstvwxz2456789]"
"""What Kubernetes makes suffixes of: no vowels, so that they are no words."""
_TIME: Final = r"\d\d(?::|%3[Aa])?\d\d(?:(?::|%3[Aa])?\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"

# In this order: an email may hold digits, a UUID is hexadecimal, a date is numbers. Every repetition is bounded or
# begins where a word begins, so that the time is linear.
_PLACEHOLDERS: Final[tuple[tuple[re.Pattern[str], _Replacement], ...]] = (
    # Bounded, as addresses are (RFC 5321, 4.5.3.1): without that, a long hostile name takes the square of its length.
    (re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63})+"), "{email}"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?"), "{jwt}"),
    (
        re.compile(
            rf"(?:%7[Bb])?{_START}[0-9a-fA-F]{{8}}-(?:[0-9a-fA-F]{{4}}-){{3}}[0-9a-fA-F]{{12}}(?:%7[Dd])?{_END}"
        ),
        "{uuid}",
    ),
    (
        re.compile(
            rf"{_START}(?:\d{{4}}-\d\d-\d\d(?:[T ]{_TIME}|[_T-]\d\d[-_]\d\d[-_]\d\d)?"
            rf"|(?:19|20)\d{{6}}(?:T{_TIME}|[-_]\d{{6}})){_END}"
        ),
        "{date}",
    ),
    (re.compile(rf"{_START}[0-9a-fA-F]{{2}}(?:(?::[0-9a-fA-F]{{2}}){{5}}|(?:-[0-9a-fA-F]{{2}}){{5}}){_END}"), "{mac}"),
    (
        re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)|(?<=\bip-)(?:\d{1,3}-){3}\d{1,3}(?![\w-])"),
        lambda match: "{ip}" if "-" in match[0] else _replace_address(match),
    ),
    (
        re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:])[0-9A-Fa-f:.]{3,45}(?![0-9A-Za-z:])"),
        _replace_address,
    ),
    # A replica set and its pod, or a job and its pod.
    (re.compile(rf"(?<=[0-9A-Za-z]-)(?:{_POD}{{8,10}}|\d{{8,10}})-{_POD}{{5}}(?![\w-])"), "{pod}"),
    # Of a daemon set, a job: letters on both sides of a digit.
    (re.compile(rf"(?<=[0-9A-Za-z]-)(?=[a-z]+[0-9]+[a-z]|[0-9][a-z]{{4}}(?<!bps)){_POD}{{5}}(?![\w-])"), "{pod}"),
    # Words such as "facade" are hexadecimal, too: short ones need a digit and a letter.
    (
        re.compile(
            rf"{_START}(?:0[xX][0-9a-fA-F]+|(?=[0-9]*[a-fA-F])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{{8,}}|[0-9a-fA-F]{{32,}})"
            rf"{_END}"
        ),
        "{hex}",
    ),
    # As Python and mktemp name them.
    (re.compile(rf"{_START}tmp(?:([0-9a-z_]{{6,12}})|[._-]([0-9A-Za-z]{{6,12}}))(?![0-9A-Za-z_])"), _replace_temporary),
    (re.compile(r"[0-9A-Za-z_-]{8,}"), _replace_random),
    # A whole segment of a path or a value.
    (re.compile(r"(?:(?<=[/=:#,(])|(?<=%2[Ff])|(?<=%3[Dd]))\d+(?![0-9A-Za-z_])(?!\.\d)"), "{number}"),
    (
        re.compile(
            rf"(?:(?<![0-9A-Za-z])([A-Za-z]{{1,16}})(?=[-_ ]))?([-_ ])?(?<![0-9A-Za-z.])(\d{{3,}}){_END}(?!\.\d)"
        ),
        _replace_number,
    ),
    (re.compile(rf"{_START}([A-Za-z]{{1,32}})\d{{5,}}{_END}"), _replace_suffix),
)


def with_placeholders(span_name: str) -> str:
    """Return a span name with its ids replaced; one without ids, or with placeholders already, is unchanged."""
    head, tail = span_name[:_MAX_EXAMINED], span_name[_MAX_EXAMINED:]
    for _ in range(_MAX_PASSES):
        replaced = _replace_once(head)
        if replaced == head:
            break
        head = replaced
    return head + tail


def _replace_once(text: str) -> str:
    if not any(map(str.isdigit, text)) and "@" not in text and len(text) < 12:
        return text
    for pattern, replacement in _PLACEHOLDERS:
        text = pattern.sub(replacement, text)
    return text
