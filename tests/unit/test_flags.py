"""Go's spellings, the environment, and the one line that a mistake gets."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.config.go_flags import (
    Flag,
    FlagKind,
    HelpAsked,
    Value,
    fill_in,
    parse_flags,
    read_argv,
    unread_variables,
)
from pyflanneld.config.usage import usage
from pyflanneld.errors import UsageError

FLAGS = (
    Flag("etcd-prefix", FlagKind.STRING, "/net", "Root.", "KEY", "one"),
    Flag("port", FlagKind.INT, 2401, "Port.", "PORT", "one"),
    Flag("guard", FlagKind.BOOL, True, "Guard.", "", "two"),
    Flag("iface", FlagKind.STRINGS, (), "Interface.", "NAME|IP", "two"),
    Flag("version", FlagKind.BOOL, False, "Version.", "", "two", from_env=False),
)

texts = st.text(min_size=1).filter(lambda text: "\0" not in text)
spellings = st.sampled_from(["-{} {}", "-{}={}", "--{} {}", "--{}={}"])


def value_of(argv: list[str], name: str, environ: dict[str, str] | None = None) -> Value:
    return parse_flags(argv, environ or {}, FLAGS)[name].value


def spelled(spelling: str, name: str, text: str) -> list[str]:
    head, separator, _ = spelling.partition(" ")
    return [head.format(name), text] if separator else [spelling.format(name, text)]


def message(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        parse_flags(argv, environ or {}, FLAGS)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    return text


@given(spellings, texts)
def test_all_four_spellings_mean_the_same(spelling: str, text: str) -> None:
    """Whatever the text, -x v, -x=v, --x v and --x=v give exactly that text, a leading dash or '=' included."""
    assert value_of(spelled(spelling, "etcd-prefix", text), "etcd-prefix") == text


@given(spellings, st.integers(-(2**63), 2**63 - 1), st.sampled_from(["{}", "{:+}", "{:#x}", "{:#o}", "{:#b}"]))
def test_integers_are_read_in_every_base_of_go(spelling: str, number: int, shape: str) -> None:
    """Decimal, signed, hexadecimal, octal and binary spellings of a 64-bit number are that number."""
    assert value_of(spelled(spelling, "port", shape.format(number)), "port") == number


@given(st.lists(texts, min_size=1), st.data())
def test_a_repeatable_flag_keeps_its_values_in_order(values: list[str], data: st.DataObject) -> None:
    """Each occurrence adds one element, however it is spelled; commas do not split."""
    argv = [word for text in values for word in spelled(data.draw(spellings), "iface", text)]
    assert value_of(argv, "iface") == tuple(values)


@given(st.lists(st.text(max_size=8)), st.dictionaries(st.sampled_from([flag.env for flag in FLAGS]), texts))
def test_any_command_line_gives_values_or_one_line(argv: list[str], environ: dict[str, str]) -> None:
    """No words and no variables whatever raise anything but UsageError or HelpAsked."""
    lines = ""
    with suppress(HelpAsked):
        try:
            assert parse_flags(argv, environ, FLAGS).keys() == {flag.name for flag in FLAGS}
        except UsageError as error:
            lines = str(error)
    assert len(lines.splitlines()) <= 1


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"])
def test_a_bool_takes_gos_twelve_words(text: str) -> None:
    """With '=', a bool takes exactly the words that Go's ParseBool takes."""
    assert value_of([f"--guard={text}"], "guard") is (text[0] in "1tT")


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", " true", "2"])
def test_a_bool_takes_nothing_else(text: str) -> None:
    """Other words are refused with the flag's name."""
    assert message([f"--guard={text}"]).startswith("--guard: ")


def test_a_bare_bool_is_true_and_takes_no_word() -> None:
    """``--guard false`` is not ``--guard=false``: the word is left over, and the message says how to write it."""
    assert value_of(["-guard"], "guard") is True
    assert "'='" in message(["--guard", "false"])


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "1e3", "0x", "08", "--", "9223372036854775808", "٣", " 1", "9" * 5000]
)
def test_what_is_no_integer_is_refused(text: str) -> None:
    """Neither Python's nor anybody's other number syntax is taken."""
    assert "whole number" in message([f"--port={text}"])


def test_octal_is_read_as_in_go() -> None:
    """A leading zero means octal, as in flanneld."""
    assert value_of(["--port=010"], "port") == 8


def test_the_last_one_counts() -> None:
    """A flag given twice has its last value."""
    assert value_of(["--port=1", "-port", "2"], "port") == 2


def test_the_command_line_wins_and_empty_variables_are_unset() -> None:
    """Command line before environment before default; an empty value on the command line is a value."""
    environ = {"FLANNELD_ETCD_PREFIX": "/env", "FLANNELD_PORT": "", "FLANNELD_GUARD": "f", "FLANNELD_IFACE": "a,b"}
    assert value_of(["--etcd-prefix=/line"], "etcd-prefix", environ) == "/line"
    assert value_of(["--etcd-prefix="], "etcd-prefix", environ) == ""
    assert value_of([], "etcd-prefix", environ) == "/env"
    assert value_of([], "port", environ) == 2401
    assert value_of([], "guard", environ) is False
    assert value_of([], "iface", environ) == ("a,b",)
    assert value_of([], "version", {"FLANNELD_VERSION": "true"}) is False


def test_a_value_knows_where_it_came_from() -> None:
    """What the operator wrote is kept for later messages."""
    values = parse_flags(["-port", "1"], {"FLANNELD_IFACE": "eth1"}, FLAGS)
    assert (values["port"].written, values["port"].in_argv) == ("-port", True)
    assert (values["iface"].written, values["iface"].in_argv) == ("FLANNELD_IFACE", False)
    assert (values["guard"].written, values["guard"].is_default) == ("--guard", True)


def test_an_unknown_flag_is_named_with_its_nearest() -> None:
    """The message names the flag as written and the nearest there is."""
    assert message(["--etcd-prefx=/x"]) == "unknown flag '--etcd-prefx': did you mean --etcd-prefix?"
    assert message(["-zzz"]) == "unknown flag '-zzz': --help lists all flags"
    assert message(["--etcd_prefix=/x"]).endswith("did you mean --etcd-prefix?")


def test_an_unknown_flag_does_not_show_its_value() -> None:
    """A misspelt --etcd-password does not print the password."""
    assert "hush" not in message(["--etcd-pasword=hush"])


def test_bad_variables_are_named() -> None:
    """A bad value in the environment is an error that names the variable, other than with flanneld."""
    assert message([], {"FLANNELD_PORT": "many"}).startswith("FLANNELD_PORT: 'many'")


@pytest.mark.parametrize("word", ["-=x", "--=x", "---port=1", "---"])
def test_malformed_flags_are_refused(word: str) -> None:
    """What starts like a flag but has no name is no flag."""
    assert "is no flag" in message([word])


@pytest.mark.parametrize("argv", [["status"], ["--port=1", "x"], ["--", "--port=1"], ["-"], [""]])
def test_left_over_words_are_refused(argv: list[str]) -> None:
    """Words after the flags, which flanneld would ignore, are an error."""
    assert "unexpected word" in message(argv)


def test_a_sub_command_can_read_its_own_flags() -> None:
    """read_argv stops at the first word, or after ``--``, and hands back the rest."""
    found, rest = read_argv(["--port=1", "node1", "--guard"], FLAGS)
    assert (found["port"].value, rest) == (1, ["node1", "--guard"])
    assert read_argv(["--", "-x"], FLAGS)[1] == ["-x"]
    assert fill_in(found, {}, FLAGS)["guard"].value is True


def test_only_listed_choices_are_accepted() -> None:
    """A flag with a list of values takes those and names them all."""
    flags = (Flag("output", FlagKind.STRING, "text", "Form.", "FORMAT", choices=("text", "table", "json")),)
    assert parse_flags(["--output=json"], {}, flags)["output"].value == "json"
    with pytest.raises(UsageError, match="--output: 'xml' is not usable: text, table or json is needed"):
        parse_flags(["--output=xml"], {}, flags)


def test_a_missing_value_is_named() -> None:
    """A flag at the end without its value says what is missing."""
    assert message(["--port"]) == "--port needs a value: --port=PORT"


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["-help"], ["--h"], ["--port=1", "--help", "--nope"]])
def test_help_is_asked_for(argv: list[str]) -> None:
    """Help wins over everything after it."""
    with pytest.raises(HelpAsked):
        parse_flags(argv, {}, FLAGS)


def test_stray_variables_are_found() -> None:
    """A FLANNELD_* variable that no flag reads is reported, an empty or foreign one is not."""
    environ = {"FLANNELD_IP_MASQ": "true", "FLANNELD_EMPTY": "", "FLANNELD_PORT": "1", "PATH": "/bin"}
    assert unread_variables(environ, FLAGS) == ("FLANNELD_IP_MASQ",)


def test_help_names_everything_within_100_columns() -> None:
    """Every flag, default and variable is in the help text, and it fits a terminal."""
    text = usage("title", FLAGS)
    for flag in FLAGS:
        assert f"--{flag.name}" in text
        assert (flag.env in text) is flag.from_env
    assert "default 2401" in text
    assert "may be repeated" in text
    assert max(map(len, text.splitlines())) <= 100
