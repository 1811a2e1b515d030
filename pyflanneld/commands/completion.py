"""``pyflanneld completion SHELL``: print a script that completes sub-commands, flags, and the values that are known.

The scripts are made from the declarations by ``make docs`` and stand next to this module, in ``completions/``. They
hold all words themselves: to complete a line starts no Python.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pyflanneld.config.go_flags import Flag
from pyflanneld.errors import UsageError

FLAGS: tuple[Flag, ...] = ()
TITLE = """\
pyflanneld completion: prints a script that completes pyflanneld's command lines.

Usage: pyflanneld completion bash|zsh|fish

bash: put it into /etc/bash_completion.d/pyflanneld, or for the running shell: source <(pyflanneld completion bash).

zsh: put it as _pyflanneld into a folder of $fpath, such as /usr/local/share/zsh/site-functions.

fish: put it into /etc/fish/completions/pyflanneld.fish.
"""
SHELLS = ("bash", "zsh", "fish")
SCRIPTS = Path(__file__).with_name("completions")


def main(words: Sequence[str]) -> int:
    """Print the script for the shell that is named; return the exit code.

    Raises:
        UsageError: no shell that we know is named.
    """
    if any(word in ("-h", "-help", "--help") for word in words):
        sys.stdout.write(TITLE)
        return 0
    if len(words) != 1 or words[0] not in SHELLS:
        raise UsageError(f"completion needs the name of one shell: {', '.join(SHELLS)}")
    sys.stdout.write((SCRIPTS / f"pyflanneld.{words[0]}").read_text("utf-8"))
    return 0
