"""Kinds of changes that spoil a function, a class or a module, made on its syntax tree.

Each function here returns a change, and a change returns how many places it has found; formatting, comments and the
code around them do not matter. A *text* is Python; in it these names stand for the code that is replaced: ``value``
(the expression), ``coroutine`` (a call without its ``await``), ``arg0``, ``arg1`` … (arguments of a call),
``original`` (a function whose body is replaced). A *mention* of a word is a name, an attribute, a keyword or a string
that is equal to it.
"""

import ast
import copy
from collections.abc import Callable
from textwrap import dedent
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | ast.ClassDef | Function
Change = Callable[[Scope], int]


def call(name: str, text: str) -> Change:
    """Put *text* in the place of each call of *name*, its ``await`` included."""

    def replaced(node: ast.AST) -> ast.AST | None:
        found = node.value if isinstance(node, ast.Await) else node
        if not isinstance(found, ast.Call) or _called(found) != name:
            return None
        given = {f"arg{number}": argument for number, argument in enumerate(found.args)}
        return _expression(text, value=node, coroutine=found, **given)

    return _everywhere(replaced)


def drop_call(name: str, mention: str = "") -> Change:
    """Leave out each statement that only calls *name*; with *mention* only where that is in it."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Expr):
            return None
        found = node.value.value if isinstance(node.value, ast.Await) else node.value
        meant = isinstance(found, ast.Call) and _called(found) == name and (not mention or _mentions(found, mention))
        return ast.Pass() if meant else None

    return _everywhere(replaced)


def argument(function: str, which: int | str, text: str) -> Change:
    """Put *text* in the place of an argument, by position or keyword, of each call of *function*."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Call) or _called(node) != function:
            return None
        if isinstance(which, int):
            if which >= len(node.args):
                return None
            node.args[which] = _expression(text, value=node.args[which])
            return node
        for keyword in node.keywords:
            if keyword.arg == which:
                keyword.value = _expression(text, value=keyword.value)
                return node
        return None

    return _everywhere(replaced)


def reads(attribute: str, text: str) -> Change:
    """Put *text* in the place of each reading of *attribute*, whose ever it is."""

    def replaced(node: ast.AST) -> ast.AST | None:
        meant = isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Load)
        return _expression(text, value=node) if meant else None

    return _everywhere(replaced)


def assigned(name: str, text: str) -> Change:
    """Put *text* in the place of what is assigned to the variable, constant or attribute *name*."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not _assigns(node, name):
            return None
        node.value = _expression(text, value=node.value)  # type: ignore[attr-defined]
        return node

    return _everywhere(replaced)


def drop_assignment(name: str, mention: str) -> Change:
    """Leave out each assignment to *name* whose value mentions *mention*."""

    def replaced(node: ast.AST) -> ast.AST | None:
        meant = _assigns(node, name) and _mentions(node.value, mention)  # type: ignore[attr-defined]
        return ast.Pass() if meant else None

    return _everywhere(replaced)


def never(*, test: str = "", body: str = "") -> Change:
    """Make each condition false that mentions *test*, or whose own block (not one inside it) mentions *body*."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.If | ast.While | ast.IfExp):
            return None
        block = node.body if isinstance(node.body, list) else [node.body]
        plain = [one for one in block if not isinstance(one, ast.If | ast.While)]
        if not (test and _mentions(node.test, test)) and not (body and any(_mentions(one, body) for one in plain)):
            return None
        node.test = ast.Constant(value=False)
        return node

    return _everywhere(replaced)


def handler(error: str, text: str) -> Change:
    """Have each handler of *error* do *text*."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.ExceptHandler) or node.type is None or not _mentions(node.type, error):
            return None
        node.body = _statements(text)
        return node

    return _everywhere(replaced)


def case(pattern: str, text: str) -> Change:
    """Have each ``case`` whose pattern mentions *pattern* do *text*."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.match_case) or not _mentions(node.pattern, pattern):
            return None
        node.body = _statements(text)
        return node

    return _everywhere(replaced)


def returns(text: str) -> Change:
    """Put *text* in the place of what the function returns."""

    def replaced(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Return) or node.value is None:
            return None
        node.value = _expression(text, value=node.value)
        return node

    return _everywhere(replaced)


def body(text: str) -> Change:
    """Have the function do *text*; there ``original(...)`` is the function as it was, a method with ``self``."""

    def change(scope: Scope) -> int:
        if not isinstance(scope, Function):
            return 0
        before = copy.deepcopy(scope)
        before.name, before.decorator_list = "original", []
        scope.body = [before, *_statements(text)]
        return 1

    return change


def first(text: str) -> Change:
    """Have the function begin with *text*."""

    def change(scope: Scope) -> int:
        if not isinstance(scope, Function):
            return 0
        scope.body = [*_statements(text), *scope.body]
        return 1

    return change


def find(tree: ast.Module, path: str) -> Scope | None:
    """Return the function or class ``name`` or ``Class.name``; the module itself for an empty *path*."""
    scope: Scope | None = tree
    for name in filter(None, path.split(".")):
        inside = [] if scope is None else scope.body
        named = [node for node in inside if isinstance(node, ast.ClassDef | Function) and node.name == name]
        scope = named[-1] if named else None
    return scope


class _Rewriter(ast.NodeTransformer):
    """Replaces the nodes for which *replaced* returns another one, or the same one changed."""

    def __init__(self, replaced: Callable[[ast.AST], ast.AST | None]) -> None:
        self._replaced = replaced
        self.places = 0

    def visit(self, node: ast.AST) -> Any:
        new = self._replaced(node)
        if new is None:
            return self.generic_visit(node)
        self.places += 1
        return self.generic_visit(new) if new is node else new


def _everywhere(replaced: Callable[[ast.AST], ast.AST | None]) -> Change:
    def change(scope: Scope) -> int:
        rewriter = _Rewriter(replaced)
        rewriter.generic_visit(scope)
        return rewriter.places

    return change


def _expression(text: str, **names: ast.AST) -> Any:
    def replaced(node: ast.AST) -> ast.AST | None:
        return copy.deepcopy(names[node.id]) if isinstance(node, ast.Name) and node.id in names else None

    return _Rewriter(replaced).visit(ast.parse(text, mode="eval").body)


def _statements(text: str) -> list[ast.stmt]:
    """Read *text* as the body of a function."""
    return ast.parse(dedent(text).strip()).body


def _called(node: ast.Call) -> str:
    """Return the last part of the name of what is called."""
    return getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def _mentions(node: ast.AST, word: str) -> bool:
    named = ("id", "attr", "arg", "value", "name")
    return any(getattr(part, field, None) == word for part in ast.walk(node) for field in named)


def _assigns(node: ast.AST, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(name in (getattr(target, "id", ""), getattr(target, "attr", "")) for target in targets)
