"""``--iface-regex``: a regular expression as Go's RE2 would read it, on Python's ``re``.

What operators write for interface names and addresses means the same to both: anchors, classes, ``\\d``, groups,
alternatives, counts, a leading ``(?i)``. POSIX classes such as ``[[:digit:]]``, which ``re`` would misread, are
translated here. What RE2 alone has (``\\pL``, ``\\z``, ``\\Q…\\E``, flags in the middle) is an error with a clear
message, never another meaning.
"""

import re
import warnings

from pyflanneld.core.invalid import shown
from pyflanneld.core.link.selection import LinkPattern

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_CLASS = re.compile(r"\[:(\^?[a-z]+):\]")


def parse_go_regex(text: str) -> LinkPattern:
    """Compile *text*. Raises ``ValueError`` whose message shows it and says what is wrong with it."""
    if not text:
        raise ValueError("a regular expression is needed, such as ^eth1$ or ^192[.]168[.]14[.]")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what "[[" may mean to Python one day
            return LinkPattern(text, re.compile(_POSIX_CLASS.sub(_posix_range, text), re.ASCII))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{shown(text)} is no regular expression: {error}") from None


def _posix_range(found: re.Match[str]) -> str:
    if found[1] not in _POSIX:
        raise re.error(f"the class {found[0]} is not known here")
    return _POSIX[found[1]]
