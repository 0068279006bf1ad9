"""Replaces ids in span names by placeholders, so that ``GET /orders/17`` and ``GET /orders/18`` are one endpoint.

A span name should be one of few (OpenTelemetry's semantic conventions ask for a low cardinality), but instrumentation
often puts the raw path into it. What looks like an id by its form alone is replaced; what may be part of a name stays:
versions of one or two numbers (``v2``, ``HTTP/1.1``), technical terms (``oauth2``, ``utf8``, ``sha-256``), short
numbers that stand alone (``step 2``) and words. An id with a prefix keeps the prefix: ``cus_NffrFeUfNV2Hib`` becomes
``cus_{id}``.
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
    r"db2|mp[34]|m3u8?|mpeg[1247]|psycopg[23]|boto3|gp[23]|v[0-9]+(?:p[0-9]+)?(?:(?:alpha|beta|rc)[0-9]+)?|365|360|24x7|24h)(?![a-z])"
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


def _replace_short_id(match: re.Match[str]) -> str:
    """Replace a short id: letters and digits take turns in it more often than in any name."""
    rest = _TECHNICAL_TERM.sub("", match[0])
    runs = re.findall("[0-9]+|[A-Za-z]+", rest)
    is_size = {run for run in runs if run.isalpha()} <= {"x"}
    return match[0] if len(runs) < 4 or len(rest) < 6 or is_size else "{id}"


def _replace_asset_hash(match: re.Match[str]) -> str:
    """Replace the hash that bundlers put before the ending of a file's name."""
    text = match[0]
    has_inner_digit = re.search("[0-9][A-Za-z_-]", text) is not None
    is_mixed = text not in (text.lower(), text.upper()) and bits_per_character(text) > 5.5
    return "{id}" if (has_inner_digit and bits_per_character(text) > 4.2) or is_mixed else text


_FREE_TEXT: Final = re.compile(
    "(?i:access_token|address|auth|callback|code|continue|cursor|email|filter|hash|jsonp|key|keywords?|lat|latlng|lng|"
    "location|lon|name|next|nonce|password|phone|q|qs|query|redirect(?:_?ur[il])?|ref|referrer|return(?:_?to|_?url)?|"
    "search|session(?:_?id)?|sid|sig|signature|state|term|text|title|token|ts|uri|url|user(?:name)?)"
)
"""Parameters whose values are chosen by people or machines, not by programmers."""
_MAX_WORD: Final = 32


def _replace_value(match: re.Match[str]) -> str:
    """Replace the value of a parameter in a query, unless it is a word or a placeholder already."""
    name, value = match[1], match[2]
    is_free = _FREE_TEXT.fullmatch(name) is not None or len(value) > _MAX_WORD or any(map(value.__contains__, "+%:/"))
    return f"{name}={{value}}" if is_free and not re.fullmatch(r"\{\w+\}", value) else match[0]


def _replace_suffix(match: re.Match[str]) -> str:
    """Replace five digits or more behind a word, or three behind a few capitals, but not ``x25519`` or ``SHA512``."""
    word, digits = match[1], match[2]
    if word.lower() in _ISO_NAMES or (len(digits) < 5 and (digits in _NAMED_NUMBERS or _NUMBERED.fullmatch(word))):
        return match[0]
    return f"{match[1]}{{number}}"


_Replacement = str | Callable[[re.Match[str]], str]

_POD: Final = "[bcdfghjklmnpqrstvwxz2456789]"
"""What Kubernetes makes suffixes of: no vowels, so that they are no words."""
_TIME: Final = r"\d\d(?::|%3[Aa])?\d\d(?:(?::|%3[Aa])?\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"

_MONTH: Final = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_YEAR: Final = r"(?:19|20)\d\d"
_SPACE: Final = "(?: |%20)"
_DECIMAL: Final = r"[+-]?\d{1,3}\.\d{3,}"

# In this order: an email may hold digits, a UUID is hexadecimal, a date is numbers. Every repetition is bounded or
# begins where a word begins, so that the time is linear. First a text that the form contains, where that is
# rare: most names are spared most of the searches.
_PLACEHOLDERS: Final[tuple[tuple[str, re.Pattern[str], _Replacement], ...]] = (
    (";", re.compile(r"(?<=;base64,)[0-9A-Za-z+/_-]+={0,2}"), "{id}"),
    (
        ":",
        re.compile(
            rf"(?<![\w:])(?:[A-Z][a-z]{{2}},{_SPACE})?\d{{1,2}}{_SPACE}{_MONTH}{_SPACE}{_YEAR}{_SPACE}{_TIME}(?:{_SPACE}GMT)?"
        ),
        "{date}",
    ),
    (
        "-",
        re.compile(rf"{_START}(?:\d{{1,2}}-(?:{_MONTH}|\d{{1,2}})-{_YEAR}|{_YEAR}-W\d\d(?:-[1-7])?){_END}(?!-\d)"),
        "{date}",
    ),
    ("-", re.compile(rf"{_START}{_YEAR}-(?:0[1-9]|1[0-2]){_END}(?!-\d)"), "{date}"),
    (".", re.compile(rf"{_START}(?<!\d\.)\d{{1,2}}\.\d{{1,2}}\.{_YEAR}{_END}(?!\.\d)"), "{date}"),
    (".", re.compile(rf"(?<![\w.]){_DECIMAL}(?:,|%2C|/)(?:%20)?{_DECIMAL}(?![\w.])"), "{coordinates}"),
    (".", re.compile(rf"(?<=[/=,(]){_DECIMAL}(?![\w.])"), "{number}"),
    (".", re.compile(r"(?<=[/=:,(])\d{9,}\.\d+(?![\w.])"), "{number}"),
    (
        ".",
        re.compile(
            r"((?<![A-Za-z])(?i:lat|latitude|lon|lng|long|longitude)(?:[/=:,]|%3[Dd]))[+-]?\d{1,3}\.\d+(?![\w.])"
        ),
        r"\1{number}",
    ),
    ("x", re.compile(rf"(?<![0-9A-Za-z.])\d{{2,5}}x\d{{2,5}}{_END}"), "{size}"),
    (
        "/",
        re.compile(
            r"(?<=/)((?i:commits?|revs?|revisions?|changesets?|tree|blob|sha|hash)/)[0-9a-f]{7}(?![0-9A-Za-z_-])"
        ),
        r"\1{hex}",
    ),
    ("A", re.compile(rf"{_START}A(?:KIA|SIA|ROA|IDA)[0-9A-Z]{{16}}{_END}"), "{id}"),
    # Bounded, as addresses are (RFC 5321, 4.5.3.1): without that, a long hostile name takes the square of its length.
    *(
        (
            sign,
            re.compile(rf"(?<![\w.+%-])[\w.+%-]{{1,64}}{sign}(?!v?\d+\.\d+\.\d)[\w-]{{1,63}}(?:\.[\w-]{{1,63}})+"),
            "{email}",
        )
        for sign in ("@", "%40")
    ),
    ("eyJ", re.compile(r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?"), "{jwt}"),
    (
        "-",
        re.compile(
            rf"(?:%7[Bb])?{_START}[0-9a-fA-F]{{8}}-(?:[0-9a-fA-F]{{4}}-){{3}}[0-9a-fA-F]{{12}}(?:%7[Dd])?{_END}"
        ),
        "{uuid}",
    ),
    (
        "",
        re.compile(
            rf"{_START}(?:\d{{4}}-\d\d-\d\d(?:[T ]{_TIME}|[_T-]\d\d[-_]\d\d[-_]\d\d)?"
            rf"|(?:19|20)\d{{6}}(?:T{_TIME}|[-_]\d{{6}})){_END}"
        ),
        "{date}",
    ),
    *(
        (sign, re.compile(rf"{_START}[0-9a-fA-F]{{2}}(?:{sign}[0-9a-fA-F]{{2}}){{5}}{_END}"), "{mac}")
        for sign in (":", "-")
    ),
    (".", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"), _replace_address),
    ("ip-", re.compile(r"(?<=\bip-)(?:\d{1,3}-){3}\d{1,3}(?![\w-])"), "{ip}"),
    (
        ":",
        re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:])[0-9A-Fa-f:.]{3,45}(?![0-9A-Za-z:])"),
        _replace_address,
    ),
    (":", re.compile(r"(?<![\w:.])(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:[.,]\d{1,9})?(?![\w:])"), "{time}"),
    (
        ".",
        re.compile(
            r"(?:(?<=[/=@:_-])|(?<=%2[Ff]))v?\d{1,4}\.\d{1,5}\.\d{1,6}(?:\.\d{1,6})?"
            r"(?:[-.+](?i:rc|alpha|beta|snapshot|m|dev|pre|release|final|ga|post|sp)[.-]?\d{0,6})?(?![0-9A-Za-z_]|\.\d)"
        ),
        "{version}",
    ),
    # A replica set and its pod, or a job and its pod.
    ("-", re.compile(rf"(?<=[0-9A-Za-z]-)(?:{_POD}{{8,10}}|\d{{8,10}})-{_POD}{{5}}(?![\w-])"), "{pod}"),
    # Of a daemon set, a job: letters on both sides of a digit.
    ("-", re.compile(rf"(?<=[0-9A-Za-z]-)(?=[a-z]+[0-9]+[a-z]|[0-9][a-z]{{4}}(?<!bps)){_POD}{{5}}(?![\w-])"), "{pod}"),
    # Words such as "facade" are hexadecimal, too: short ones need a digit and a letter.
    (
        "",
        re.compile(
            rf"{_START}(?:0[xX][0-9a-fA-F]+|(?=[0-9]*[a-fA-F])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{{8,}}|[0-9a-fA-F]{{32,}})"
            rf"{_END}"
        ),
        "{hex}",
    ),
    (
        ".",
        re.compile(
            r"(?<=[-.])[0-9A-Za-z_-]{8}(?=\.(?:m?js|css|map|woff2?|png|svg|jpe?g|webp|gif|ico|wasm)(?![0-9A-Za-z]))"
        ),
        _replace_asset_hash,
    ),
    # Base64 with its padding.
    (
        "=",
        re.compile(
            r"(?<![0-9A-Za-z_?&-])(?=[a-z0-9_-]*[A-Z])(?=[A-Z0-9_-]*[a-z])(?=[A-Za-z_-]*[0-9])[0-9A-Za-z_-]{16,256}"
            r"={1,2}(?![0-9A-Za-z={])"
        ),
        "{id}",
    ),
    # As Python and mktemp name them.
    (
        "tmp",
        re.compile(rf"{_START}tmp(?:([0-9a-z_]{{6,12}})|[._-]([0-9A-Za-z]{{6,12}}))(?![0-9A-Za-z_])"),
        _replace_temporary,
    ),
    ("", re.compile(r"[0-9A-Za-z_-]{8,}"), _replace_random),
    # A whole segment of a path or a value.
    (
        "",
        re.compile(r"(?:(?<=[/=:#,(])|(?<=%2[Ff])|(?<=%3[Dd])|(?<=[=<>] ))[+-]?\d+(?![0-9A-Za-z_])(?!\.\d)"),
        "{number}",
    ),
    (
        "",
        re.compile(
            rf"(?:(?<![0-9A-Za-z])([A-Za-z]{{1,16}})(?=[-_ ]))?([-_ ])?(?<![0-9A-Za-z.])(\d{{3,}}){_END}(?!\.\d)"
        ),
        _replace_number,
    ),
    ("", re.compile(rf"{_START}([A-Za-z]{{1,32}})(\d{{5,}}){_END}"), _replace_suffix),
    ("/", re.compile(r"(?<=/)([A-Z]{1,4})(\d{3,4})(?![0-9A-Za-z_-])"), _replace_suffix),
    ("", re.compile(r"(?:(?<=[/=:,#|])|(?<=[a-z][_-]))[0-9A-Za-z]{6,11}(?![0-9A-Za-z_-])"), _replace_short_id),
    ("{number}-", re.compile(r"(?<=\{number\}-)(?=[A-Z]*[0-9])[0-9A-Z]{4,8}(?![0-9A-Za-z_-])"), "{id}"),
    # What is left of base64, of ids in braces, of lists and queries.
    ("{id}", re.compile(r"(?<=\{id\})(?:[+/][0-9A-Za-z+/]{1,64})?={1,2}(?![0-9A-Za-z{])"), ""),
    ("{id}%", re.compile(r"(?<=\{id\})(?:%3[Dd]){1,2}(?![0-9A-Za-z])"), ""),
    ("{{", re.compile(r"\{(\{\w{1,16}\})\}"), r"\1"),
    (",", re.compile(r"(\{(?:number|uuid|hex|id)\})(?:(?:,|%2C)\1)+"), r"\1"),
    ("?", re.compile(r"(?<=[?&])([\w.\[\]-]{1,64})=([^&#\s]*)"), _replace_value),
)


_WITHOUT_DIGITS: Final = tuple(
    each
    for each in _PLACEHOLDERS
    if each[2] in ("{email}", "{jwt}", _replace_asset_hash, _replace_random, _replace_value)
)
"""The forms that a name without a digit can have."""


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
    placeholders = _PLACEHOLDERS
    if not any(map(str.isdigit, text)):
        if "@" not in text and "?" not in text and len(text) < 12:
            return text
        placeholders = _WITHOUT_DIGITS
    for part, pattern, replacement in placeholders:
        if part in text:
            text = pattern.sub(replacement, text)
    return text
