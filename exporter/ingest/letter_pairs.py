"""How surprising the letters of a word are, to tell words from random characters.

The cost of a letter is the number of bits that it takes to name it when the letter before it is known (the negative
binary logarithm of its probability). English and technical words cost about 4 bits a character, random ones 5 to 7.
"""

import re
from string import ascii_lowercase
from typing import Final

# Half bits, in base 36: a row for each letter before (the first: the beginning of a word), a column for each letter.
# Written by tools/letter_pairs.py.
_ROWS: Final = (
    "897899ab8fd999a8f869acbdgg",
    "g989geagakd687k9i685cdeeci",
    "6aad7dff7ag5cd7bi88c7jhh9g",
    "6ibe7fh79o88de5fh8b79gimco",
    "7cc94cdg5hgaed7eh99b9eghel",
    "9e86bacgejg9a6ebc567gcd9ej",
    "8fcb76ek4ll8ed6dj7a98hgjco",
    "8fcd3eb88ll8b89eo78a9egogf",
    "5fdc4fhh6odbcd5foac8bhglcg",
    "ab89ab9mikh8948bja77jaodpb",
    "6i9d4did9iabee5bidae5ieidi",
    "8dab4cad6hg9eaabga6bcgamcm",
    "6fda4egg5kg7fe6dlf99afik8l",
    "5afc4fhg6kfcae76pg9cajipdm",
    "7g877a5g8iccec9dif76bcgjfk",
    "db98gcbhcjc885a8o6998b9dhi",
    "6gdd5cfb8qf7fe79i698agfnan",
    "deadeeeeegjbeced8a7d1edjjj",
    "6eaa4dbg6ndcab7cm978beekbl",
    "af8d5ee86kcbde98ee858gejbl",
    "7ebd5di85nhbdd8cj78aafehag",
    "a8ac9cch9mg785c8m677hjihmj",
    "4dcg2edg6niedeadjccfgcgigg",
    "5dbb6ch95ifbe78di78difddmh",
    "9b7a79hb7liabeb6lba5ddeabg",
    "bbab8bcf8mh987a5ia67dbbfec",
    "6fbe2cgf6jjeef8fjdccdjejde",
)
_COSTS: Final = {
    before + letter: int(cost, 36) / 2
    for before, row in zip(f"^{ascii_lowercase}", _ROWS, strict=True)
    for letter, cost in zip(ascii_lowercase, row, strict=True)
}

_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
"""Words as in camelCase, acronyms and numbers."""
_PART_BITS: Final = 2.0
_CAPITAL_BITS: Final = 4.0
_FIRST_DIGIT_BITS: Final = 3.0
_DIGIT_BITS: Final = 2.0
_ACRONYM: Final = 4
"""Capitals from this number on are a word rather than an acronym."""


def bits_per_character(text: str) -> float:
    """Return the mean cost of ASCII letters and digits in bits; 0 for a text without any.

    Each change between words, acronyms and numbers costs something, too: random characters change often.
    """
    bits, characters = 0.0, 0
    for part in _PARTS.findall(text):
        characters += len(part)
        bits += _PART_BITS
        if part[0].isdigit():
            bits += _FIRST_DIGIT_BITS + _DIGIT_BITS * (len(part) - 1)
        elif part.isupper() and len(part) < _ACRONYM:
            bits += _CAPITAL_BITS * len(part)
        else:
            word = part.lower()
            bits += sum(map(_COSTS.__getitem__, map(str.__add__, "^" + word, word)))
    return bits / characters if characters else 0.0
