"""What the documentation tells people to type can be typed: shells, parsers and our own flags take it."""

import configparser
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
from manual import Manual

from pyflanneld.cli import main
from pyflanneld.commands.catalogue import COMMANDS
from pyflanneld.config.go_flags import Flag, HelpAsked, fill_in, read_argv, refuse_words
from pyflanneld.config.load import ACCEPTED, to_settings
from pyflanneld.errors import UsageError
from tests.support.doc_blocks import PAGES, Block, all_blocks, inline

BLOCKS = all_blocks()
SCRIPTS = [block for block in BLOCKS if block.script]
LEFT_OUT = "…"
_OPERATOR = re.compile(r"[<>|;&()]+")


def invocations(script: str) -> list[list[str]]:
    """Return the words after ``pyflanneld`` of each time that it is called in *script*."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.replace("$(", " ( "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words, fresh = list(lexer), True
        for position, word in enumerate(words):
            if fresh and word.rpartition("/")[2] == "pyflanneld":
                rest = words[position + 1 :]
                end = next((i for i, one in enumerate(rest) if _OPERATOR.fullmatch(one)), len(rest))
                found.append([one for one in rest[:end] if one != "\n"])
            fresh = bool(_OPERATOR.fullmatch(word)) or (fresh and (word in {"exec", "sudo"} or "=" in word))
    return found


def check(words: Sequence[str]) -> None:
    """Read a command line as the program would, without doing anything.

    Raises:
        UsageError: a flag, a value or a sub-command that does not exist.
    """
    try:
        if words and not words[0].startswith("-"):
            _check_sub_command(*words)
        else:
            _check_daemon(words)
    except HelpAsked:
        pass


def _check_daemon(words: Sequence[str]) -> None:
    on_line, rest = read_argv(words, ACCEPTED)
    refuse_words(rest, ACCEPTED)
    whole = {name: item for name, item in on_line.items() if LEFT_OUT not in str(item.value)}
    to_settings(fill_in(whole, {}, ACCEPTED))


def _check_sub_command(name: str, *words: str) -> None:
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        raise UsageError(f"there is no sub-command {name}")
    manual = Manual.of_command(command)
    plain = _plain_words(list(words), manual.flags)
    if plain and manual.words and plain[0] not in manual.words:
        raise UsageError(f"{name} has no {plain[0]}")


def _plain_words(words: list[str], flags: Sequence[Flag]) -> list[str]:
    plain: list[str] = []
    while words and words[0] != "--":
        _, words = read_argv(words, flags)
        plain, words = plain + words[:1], words[1:]
    return plain


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_shell_takes_it(block: Block) -> None:
    """``bash -n`` finds nothing wrong with what is to be typed."""
    done = subprocess.run(["bash", "-n"], input=block.script, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", [block for block in SCRIPTS if "pyflanneld" in block.script], ids=str)
def test_our_own_command_lines(block: Block) -> None:
    """Each flag, value and sub-command exists; but where the answer to a mistake is shown, there is one."""
    mistaken = re.search(r"^pyflanneld: .*did you mean", block.text, re.MULTILINE) is not None
    for words in invocations(block.script):
        with pytest.raises(UsageError, match="did you mean") if mistaken else nullcontext():
            check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_our_own_command_lines_in_the_text(page: object) -> None:
    """The same for inline code that begins with the program's name."""
    for code in inline(page):  # type: ignore[arg-type]
        for words in invocations(code):
            check(words)


def test_json_is_json() -> None:
    """A block that begins with a brace is one document, or one on each line."""
    for block in BLOCKS:
        if block.kind == "json":
            for document in (block.text.splitlines() if "}\n{" in block.text else [block.text]):
                json.loads(document)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "ini"], ids=str)
def test_ini_is_ini(block: Block) -> None:
    """Units and program sections have sections and keys."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(block.text)
    assert all(parser.items(section) for section in parser.sections())


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "python"], ids=str)
def test_python_is_python(block: Block) -> None:
    """It compiles."""
    compile(block.text, str(block), "exec")


def test_the_network_configurations_are_ones() -> None:
    """Each document that is put at ``…/config`` can be used by the daemon."""
    from pyflanneld.core.network.config import parse_config

    documents = [found for block in SCRIPTS for found in re.findall(r"network/config\s+'(\{.*?\})'", block.script)]
    assert len(documents) >= 5
    for document in documents:
        parse_config(document.encode())


def test_what_is_looked_at() -> None:
    """The search above finds the kinds of blocks that there are, and calls of the program in all their forms."""
    kinds = {block.kind for block in BLOCKS}
    assert {"shell", "session", "ini", "output", "python"} <= kinds
    calls = [words for block in SCRIPTS for words in invocations(block.script)]
    assert len(calls) > 15
    assert {words[0] for words in calls if words and not words[0].startswith("-")} >= {"lab", "migrate", "docker-opts"}
    assert invocations("A=1 exec ./pyflanneld --iface eth1 \\\n --v=1 >log") == [["--iface", "eth1", "--v=1"]]
    assert invocations("docker network create $(/opt/pyflanneld docker-opts -f x) pods") == [["docker-opts", "-f", "x"]]
    assert invocations("source <(pyflanneld completion bash) && pyflanneld lab up  # pyflanneld x") == [
        ["completion", "bash"], ["lab", "up"],
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["--no-such", "--etcd-api=4", "lab upp", "leases --forced", "nothing", "--iface a b"])
def test_a_mistake_is_found(line: str) -> None:
    """An unknown flag, value, word or sub-command."""
    with pytest.raises(UsageError):
        check(line.split())


def test_what_can_run_alone_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The calls that neither need nor change anything end with 0: versions, helps and completions."""
    calls = [words for block in SCRIPTS for words in invocations(block.script)]
    harmless = [words for words in calls if words[:1] == ["completion"] or words[-1:] in (["--version"], ["--help"])]
    assert len(harmless) >= 4
    for words in harmless:
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        assert code == 0, words
        assert capsys.readouterr().out
