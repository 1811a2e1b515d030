"""Nothing starts a program, calls C, or makes code out of data, outside the few modules that are named here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyflanneld

ROOT = Path(pyflanneld.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

MODULES = {
    "code", "cPickle", "ctypes", "dill", "marshal", "multiprocessing", "pickle", "pty", "runpy", "shelve", "subprocess",
    "yaml",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
OF_OS = ("exec", "fork", "popen", "posix_spawn", "spawn", "startfile", "system")

AUDITED = {
    "commands/catalogue.py": {"import_module"},     # of the names that stand in it
    "commands/docker_opts.py": {"subprocess"},      # a command of the operator's: asks Docker for its version
    "firewall/command_runner.py": {"subprocess"},   # the daemon's firewall programs, and no others
    "lab/command.py": {"execvp"},                   # the laboratory, which no daemon loads: ip, etcd, the daemon itself
    "lab/measure.py": {"subprocess"},
    "lab/process.py": {"subprocess"},
    "lab/run.py": {"subprocess"},
    "lab/topology.py": {"ctypes"},                  # setns
    "system/disk.py": {"fork"},                     # writes to disks that may hang; executes nothing
    "netlink/__init__.py": {"import_module"},       # of the parts of pyroute2
    "system/prctl.py": {"ctypes"},                  # prctl, capget and capset: rights, the end of a start script
}  # fmt: skip
"""What each may, and why."""


def found(source: str) -> Iterator[str]:
    """Yield what *source* does that has to be audited."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        yield from _imported(node)
        yield from _used(node)
    if any("import_module" in (_name(node), getattr(node, "name", "")) for node in ast.walk(tree)):
        yield "import_module"


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name.split(".")[0] for alias in node.names]
        yield from (name for name in names if name in MODULES)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        if (package := node.module.split(".")[0]) in MODULES:
            yield package
        yield from filter(None, (_member(node.module, alias.name) for alias in node.names))


def _used(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            yield from filter(None, [_member(module, name)])
        case ast.Name(id=name) if name in BUILTINS:
            yield name


def _member(module: str, name: str) -> str:
    """Return what to call the use of ``module.name``; empty when it is harmless."""
    if module == "os" and name.startswith(OF_OS):
        return name
    if name.startswith(("create_subprocess", "subprocess_")):
        return "create_subprocess"
    return ""


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_does_nothing_that_is_not_audited(path: Path) -> None:
    """No program is started, no C called, no code made of data, except where the list above says so and why."""
    name = path.relative_to(ROOT).as_posix()
    assert set(found(path.read_text("utf-8"))) == AUDITED.get(name, set())


def test_the_list_names_files_that_there_are() -> None:
    """A module that is gone, or renamed, takes its permission with it."""
    assert {path.relative_to(ROOT).as_posix() for path in FILES} >= AUDITED.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess", "import ctypes.util", "from subprocess import run", "def f():\n    import pickle",
        "import os\nos.system('x')", "import os\nos.execvp('x', [])", "from os import popen", "import os\nos.fork()",
        "import os\nos.posix_spawn('x', [], {})", "import asyncio\nasyncio.create_subprocess_shell('x')",
        "from asyncio import create_subprocess_exec", "loop.subprocess_exec(x)", "eval('1')", "exec(x)", "compile(x)",
        "__import__(x)", "import importlib\nimportlib.import_module(name)", "from importlib import import_module",
        "import importlib\nload = importlib.import_module", "import yaml", "import multiprocessing.pool",
        "import asyncio, importlib\nasyncio.to_thread(importlib.import_module, name)",
    ],
)  # fmt: skip
def test_the_check_sees_what_has_to_be_audited(source: str) -> None:
    """Each way to start a program, to call C or to make code out of data is found."""
    assert list(found(source))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('x')", "import os\nos.open('x', 0)", "import asyncio\nasyncio.run(main())",
    ],
)  # fmt: skip
def test_the_check_lets_the_rest_through(source: str) -> None:
    """What only looks similar is nothing to audit."""
    assert list(found(source)) == []
