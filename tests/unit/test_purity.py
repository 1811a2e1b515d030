"""The pure rooms stay pure: nothing in them waits, or reaches for the world outside its arguments."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyflanneld

ROOT = Path(pyflanneld.__file__).parent
ROOMS = ("core", "backends", "commands/doctor/checks")
DOCTOR = tuple(f"commands/doctor/{name}.py" for name in ("finding", "host_facts"))
FILES = sorted([path for room in ROOMS for path in (ROOT / room).rglob("*.py")] + [ROOT / name for name in DOCTOR])
PURE_PLACES = tuple(f"pyflanneld.{place}".replace("/", ".").removesuffix(".py") for place in (*ROOMS, *DOCTOR))

PURE_MODULES = {
    "abc", "base64", "bisect", "collections", "collections.abc", "dataclasses", "difflib", "enum", "functools",
    "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "operator", "re", "string", "types", "typing",
}  # fmt: skip
"""What may be imported whole: modules without clock, chance, log, environment or files."""

PURE_NAMES = {("random", "Random")}
"""What may be taken out of another module: the type of a generator that the caller seeds."""

IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "compile", "breakpoint", "__import__"}


def is_pure(module: str, name: str | None = None) -> bool:
    """Return whether ``import module`` or ``from module import name`` brings nothing impure in."""
    package = module.split(".")[0]
    if package == "pyflanneld":
        return module.startswith(PURE_PLACES) or f"{module}.{name}".startswith(PURE_PLACES)
    return package == "pydantic" or module in PURE_MODULES or (module, name) in PURE_NAMES


def imports(tree: ast.AST) -> Iterator[tuple[int, bool, str]]:
    """Yield each import as line, whether it is pure, and text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, is_pure(alias.name), f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                pure = node.level == 0 and is_pure(node.module or "", alias.name)
                yield node.lineno, pure, f"from {node.module} import {alias.name}"


def offences(source: str) -> list[str]:
    """Return what is not pure in *source*, one line each."""
    tree = ast.parse(source)
    found = [f"{line}: {text}" for line, pure, text in imports(tree) if not pure]
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            found.append(f"{node.lineno}: {type(node).__name__}")
        elif isinstance(node, ast.comprehension) and node.is_async:
            found.append(f"{node.iter.lineno}: async comprehension")
        elif isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.Global):
            found.append(f"{node.lineno}: global {', '.join(node.names)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_pure_file_is_pure(path: Path) -> None:
    """No await, clock, randomness, logging, environment or file access, and no import from outside the pure rooms."""
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_looked_at(room: str) -> None:
    """The check above has files to check."""
    assert any(path.is_relative_to(ROOT / room) for path in FILES)


@pytest.mark.parametrize(
    "source",
    [
        "async def f(): pass", "async def f():\n    await g()", "import time", "import os.path", "import random",
        "from random import choice", "from random import Random, shuffle", "import asyncio", "import logging",
        "import structlog", "from pathlib import Path", "import socket", "import subprocess",
        "from datetime import datetime",
        "def f():\n    import time", "from pyflanneld.ports import Clock", "from pyflanneld import settings",
        "import pyflanneld.daemon.run", "from . import lease", "from os import environ", "x = open('f')", "print(1)",
        "def f():\n    global x", "import urllib.request", "from collections import abc, x\nimport secrets",
    ],
)  # fmt: skip
def test_the_check_sees_what_is_impure(source: str) -> None:
    """Each thing that does not belong into the pure rooms is found."""
    assert len(offences(source)) >= 1


def test_the_check_lets_through_what_is_pure() -> None:
    """The pure standard library, pydantic, the rooms themselves, and the type of a seeded generator may be used."""
    source = (
        "import json, re\nfrom random import Random\nfrom pydantic import BaseModel\n"
        "from ipaddress import IPv4Network\nfrom pyflanneld.core.lease.codec import parse_name\n"
        "from pyflanneld.backends import host_gw\n"
    )
    assert offences(source) == []
