"""``--iface-regex``: a regular expression of Go (RE2), rewritten for Python's ``re``. Pure.

Wire format: ``regexp/syntax/parse.go`` of Go 1.26, with the flags that ``regexp.Compile`` sets. What Go refuses is
refused in Go's words (look-around, back references, possessive quantifiers, ``\\Z``); what it accepts means the same
here (``{,2}`` is text, ``\\z``, ``\\Q…\\E``, flags in the middle). Only the Unicode classes ``\\p`` are not had.

A pattern only ever answers whether it occurs in a text. So no group captures, and greediness does not matter. Each
*piece* is an expression of its own, to which a repetition can be applied; a character under ``(?i)`` carries that flag
itself, because in Go a flag counts from where it stands.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pyflanneld.core.invalid import shown
from pyflanneld.core.link.selection import LinkPattern

Ranges = list[tuple[int, int]]

_MAX_REPEAT = 1000
_MAX_RUNE = 0x10FFFF
_PERL: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "s": [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
}
_POSIX: dict[str, Ranges] = {
    "alnum": [(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)],
    "alpha": [(0x41, 0x5A), (0x61, 0x7A)],
    "ascii": [(0x00, 0x7F)],
    "blank": [(0x09, 0x09), (0x20, 0x20)],
    "cntrl": [(0x00, 0x1F), (0x7F, 0x7F)],
    "digit": [(0x30, 0x39)],
    "graph": [(0x21, 0x7E)],
    "lower": [(0x61, 0x7A)],
    "print": [(0x20, 0x7E)],
    "punct": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "space": [(0x09, 0x0D), (0x20, 0x20)],
    "upper": [(0x41, 0x5A)],
    "word": _PERL["w"],
    "xdigit": [(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
}
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_ANCHORS = {"A": r"\A", "b": r"(?a:\b)", "B": r"(?a:\B)", "z": r"\Z"}
_COUNT = re.compile(r"\{(0|[1-9][0-9]*)(,(0|[1-9][0-9]*)?)?\}", re.ASCII)
_NAMED = re.compile(r"\(\?P?<([0-9A-Za-z_]+)>")
_FLAGS = re.compile(r"\(\?([imsU]*)(?:-([imsU]+))?([:)])")
_HEX = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})")
_OCTAL = re.compile(r"\\(0[0-7]{0,2}|[1-7][0-7]{1,2})")


def parse_go_regex(text: str) -> LinkPattern:
    """Compile *text*, which may be empty. Raises ``ValueError``, which shows it and says what is wrong with it."""
    try:
        return LinkPattern(text, re.compile(_Parser(text).parsed()))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{shown(text)} is no regular expression: {error}") from None


@dataclass(slots=True)
class _Group:
    """A group that is open, or the whole expression.

    Attributes:
        flags: those in force where it began, which are in force again behind it.
        pieces: of its last alternative: each with the product of the counts in it.
        others: its other alternatives.
    """

    flags: frozenset[str]
    pieces: list[tuple[str, int]] = field(default_factory=list)
    others: list[tuple[str, int]] = field(default_factory=list)

    def alternative(self) -> None:
        """Begin another alternative."""
        self.others.append(("".join(text for text, _ in self.pieces), max((n for _, n in self.pieces), default=1)))
        self.pieces = []

    def closed(self) -> tuple[str, int]:
        """Return all of it as one piece."""
        self.alternative()
        return f"(?:{'|'.join(text for text, _ in self.others)})", max(n for _, n in self.others)


class _Parser:
    """Reads one expression, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._flags: frozenset[str] = frozenset()
        self._open = [_Group(self._flags)]

    def parsed(self) -> str:
        """Return the expression for ``re``. Raises ``re.error``."""
        if any("\ud800" <= char <= "\udfff" for char in self._text):
            raise re.error("invalid UTF-8")
        repeated = ""
        while self._at < len(self._text):
            before = self._at
            repeated = self._text[before : self._at] if self._step(repeated) else ""
        if len(self._open) > 1:
            raise re.error("missing closing )")
        return self._open[0].closed()[0]

    def _step(self, repeated: str) -> bool:
        """Read on by one element; *repeated* is the repetition just before. Return whether it is a repetition."""
        char = self._text[self._at]
        if char in "*+?":
            self._repeat(char, char, 1, repeated)
            return True
        if char == "{" and (count := _COUNT.match(self._text, self._at)):
            self._repeat(count[0], count[0], self._checked(count), repeated)
            return True
        match char:
            case "(":
                self._begin()
            case ")":
                self._end()
            case "|":
                self._open[-1].alternative()
                self._at += 1
            case "[":
                self._class()
            case "\\":
                self._escaped()
            case _:
                self._plain(char)
        return False

    def _push(self, piece: str, weight: int = 1) -> None:
        self._open[-1].pieces.append((piece, weight))

    def _plain(self, char: str) -> None:
        self._at += 1
        lines = "m" in self._flags
        special = {
            "^": "(?m:^)" if lines else r"\A",
            "$": "(?m:$)" if lines else r"\Z",
            ".": "(?s:.)" if "s" in self._flags else ".",
        }
        self._push(special.get(char) or self._one_of([(ord(char), ord(char))]))

    def _one_of(self, ranges: Ranges, *, negated: bool = False) -> str:
        body = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
        found = f"[{'^' if negated else ''}{body}]"
        return f"(?i:{found})" if "i" in self._flags else found

    # Repetitions

    def _checked(self, count: re.Match[str]) -> int:
        """Return how often something is repeated at least, or at most where there is an end."""
        least, most = int(count[1]), int(count[3]) if count[3] else None
        if least > _MAX_REPEAT or (most is not None and not least <= most <= _MAX_REPEAT):
            raise re.error(f"invalid repeat count: {count[0]}")
        return least if most is None else most

    def _repeat(self, written: str, operator: str, times: int, repeated: str) -> None:
        self._at += len(written)
        if self._text[self._at : self._at + 1] == "?":  # the shortest match: whether there is one is the same
            self._at += 1
            written += "?"
        if repeated:
            raise re.error(f"invalid nested repetition operator: {repeated}{written}")
        pieces = self._open[-1].pieces
        if not pieces:
            raise re.error(f"missing argument to repetition operator: {written}")
        piece, weight = pieces.pop()
        weight = 1 if operator in {"{0}", "{0,0}"} else weight * max(times, 1)
        if times > 1 and weight > _MAX_REPEAT:
            raise re.error(f"invalid repeat count: {written}")
        self._push(f"(?:{piece}){operator}", weight)

    # Groups

    def _begin(self) -> None:
        text, at = self._text, self._at
        if not text.startswith("(?", at):
            self._open.append(_Group(self._flags))
            self._at += 1
        elif named := _NAMED.match(text, at):
            self._open.append(_Group(self._flags))
            self._at = named.end()
        elif flags := _FLAGS.match(text, at):
            if flags[3] == ":":
                self._open.append(_Group(self._flags))
            self._flags = (self._flags | set(flags[1])) - set(flags[2] or "")
            self._at = flags.end()
        else:
            raise re.error(f"invalid or unsupported Perl syntax: {text[at : at + 4]}")

    def _end(self) -> None:
        if len(self._open) == 1:
            raise re.error("unexpected )")
        group = self._open.pop()
        self._flags = group.flags
        self._push(*group.closed())
        self._at += 1

    # Characters

    def _escaped(self) -> None:
        text, at = self._text, self._at
        kind = text[at + 1 : at + 2]
        if kind in _ANCHORS:
            self._push(_ANCHORS[kind])
            self._at += 2
        elif kind == "Q":
            literal, _, _ = text[at + 2 :].partition(r"\E")
            for char in literal:
                self._push(self._one_of([(ord(char), ord(char))]))
            self._at = min(at + 4 + len(literal), len(text))
        elif ranges := self._perl_class():
            self._push(self._one_of(ranges))
        else:
            code = self._escape()
            self._push(self._one_of([(code, code)]))

    def _perl_class(self) -> Ranges:
        """Read ``\\d`` and the like; empty where something else stands."""
        kind = self._text[self._at + 1 : self._at + 2]
        if not self._text.startswith("\\", self._at) or not kind:
            return []
        if kind in "pP":
            raise re.error(rf"Unicode classes such as \{kind} are not supported here: write the characters out")
        if kind.lower() not in _PERL:
            return []
        self._at += 2
        return self._group(_PERL[kind.lower()], negated=kind.isupper())

    def _group(self, ranges: Ranges, *, negated: bool) -> Ranges:
        if not negated:
            return ranges
        return _complement(_folded(ranges) if "i" in self._flags else ranges)

    def _escape(self) -> int:
        """Read an escape sequence that stands for one character; return that."""
        text, at = self._text, self._at
        char = text[at + 1 : at + 2]
        if not char:
            raise re.error("trailing backslash at end of expression")
        if octal := _OCTAL.match(text, at):
            self._at = octal.end()
            return int(octal[1], 8)
        if (digits := _HEX.match(text, at)) and (code := int(digits[1] or digits[2], 16)) <= _MAX_RUNE:
            self._at = digits.end()
            return code
        self._at += 2
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isascii() and not char.isalnum():
            return ord(char)
        raise re.error(f"invalid escape sequence: \\{char}")

    def _class(self) -> None:
        text, start = self._text, self._at
        self._at += 1
        negated = text.startswith("^", self._at)
        self._at += negated
        ranges: Ranges = []
        first = True
        while first or not text.startswith("]", self._at):
            if self._at >= len(text):
                raise re.error(f"missing closing ]: {text[start:]}")
            ranges += self._posix_class() or self._perl_class() or [self._range(start)]
            first = False
        self._at += 1
        self._push(self._one_of(ranges, negated=negated))

    def _posix_class(self) -> Ranges:
        """Read ``[:digit:]`` and the like; empty where something else stands."""
        text, at = self._text, self._at
        end = text.find(":]", at + 2) if text.startswith("[:", at) else -1
        if end < 0:
            return []
        name = text[at + 2 : end]
        if name.removeprefix("^") not in _POSIX:
            raise re.error(f"invalid character class range: {text[at : end + 2]}")
        self._at = end + 2
        return self._group(_POSIX[name.removeprefix("^")], negated=name.startswith("^"))

    def _range(self, start: int) -> tuple[int, int]:
        text, at = self._text, self._at
        low = high = self._class_char(start)
        if text.startswith("-", self._at) and text[self._at + 1 : self._at + 2] not in {"", "]"}:
            self._at += 1
            high = self._class_char(start)
        if high < low:
            raise re.error(f"invalid character class range: {text[at : self._at]}")
        return low, high

    def _class_char(self, start: int) -> int:
        if self._at >= len(self._text):
            raise re.error(f"missing closing ]: {self._text[start:]}")
        if self._text[self._at] == "\\":
            return self._escape()
        self._at += 1
        return ord(self._text[self._at - 1])


def _folded(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return *ranges*, which are of ASCII, with the other cases of each letter in them."""
    chars = {chr(code) for low, high in ranges for code in range(low, high + 1)}
    others = {"k": "\u212a", "s": "\u017f"}
    cases = {case for char in chars for case in (char, char.upper(), char.lower(), others.get(char.lower(), char))}
    return [(ord(char), ord(char)) for char in cases]


def _complement(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """Return the characters that are in none of *ranges*."""
    found, free = [], 0
    for low, high in sorted(ranges):
        if low > free:
            found.append((free, low - 1))
        free = max(free, high + 1)
    return [*found, (free, _MAX_RUNE)] if free <= _MAX_RUNE else found
