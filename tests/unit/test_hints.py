"""Whatever can be wrong, there is a sentence that says what to do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pyflanneld
from pyflanneld.core.neighbours import EntryKind
from pyflanneld.core.routes import RouteKind
from pyflanneld.core.status import hints
from pyflanneld.core.vxlan.forwardings import ForwardingKind
from pyflanneld.state import readiness

ROOT = Path(pyflanneld.__file__).parent
EVENT = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


def reported(source: str) -> Iterator[str]:
    """Yield the events that *source* reports as conditions: arguments of ``report``, and what they are set to."""
    for tree in ast.walk(ast.parse(source)):
        if not isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
        reports = [one for one in calls if one.func.attr in ("report", "_report")]  # type: ignore[attr-defined]
        names = {word.id for one in reports for word in one.args if isinstance(word, ast.Name)}
        values: list[ast.AST] = [word for one in reports for word in one.args]
        for one in ast.walk(tree):
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and one.targets[0].id in names:
                values.append(one.value)
        for value in values:
            for part in ast.walk(value):
                if isinstance(part, ast.Constant) and EVENT.fullmatch(str(part.value)):
                    yield str(part.value)


def test_every_condition_that_is_reported_has_a_hint() -> None:
    """Each, and none that is not reported."""
    rooms = (ROOT / "tasks", ROOT / "state", ROOT / "daemon")
    sources = [path.read_text("utf-8") for room in rooms for path in room.rglob("*.py")]
    events = {event for source in sources for event in reported(source)}
    for names in (RouteKind.events, EntryKind.events, ForwardingKind.events):
        events |= {names.contested, names.shadowed, names.conflict, names.failed} - {""}
    assert {"config.missing", "etcd.denied", "firewall.misread", "guard.holding"} <= events, "the search is out of date"
    assert events == set(hints.CONDITIONS)


def test_every_reason_of_a_quarantine_has_a_hint() -> None:
    """Those of the rules, of the parsers, and of overlaps."""
    core = "\n".join((ROOT / "core/peers" / name).read_text("utf-8") for name in ("validation.py", "table.py"))
    parsers = "\n".join((ROOT / "core" / name).read_text("utf-8") for name in ("lease/codec.py", "strict_json.py"))
    reasons = set(re.findall(r'(?:Quarantine\(|, |[A-Z] = )"([a-z]+_[a-z_]+)"', core))
    reasons |= set(re.findall(r'Invalid\("([a-z_]+)"', parsers))
    expected = {"bad_key", "gateway_off_link", "captures_network", "own_elsewhere", "overlaps_older"}
    assert expected <= reasons, "the search is out of date"
    assert reasons <= set(hints.QUARANTINED)


def test_whatever_else_stands_against_readiness_has_a_remedy() -> None:
    """The events of ``readiness.unready_reasons``."""
    source = (ROOT / "state" / "readiness.py").read_text("utf-8")
    events = set(re.findall(r'UnreadyReason\("([a-z_.]+)"', source)) | {readiness.TASK_STALLED, readiness.PENDING}
    assert events == set(hints.UNREADY)


def test_hints_are_one_sentence_or_two() -> None:
    """Short, printable, with an end."""
    for text in (*hints.CONDITIONS.values(), *hints.QUARANTINED.values(), *hints.UNREADY.values()):
        assert text.isprintable()
        assert text[-1] in ".?"
        assert len(text) <= 110
    assert hints.hint("nobody.knows") == ""
