"""The plans of the failpoints, and the places where these are."""

import errno
import re
from pathlib import Path

import pytest

from tests.support.failpoints.hooks import HOOKS, place
from tests.support.failpoints.plan import POINTS, Action, Plan, parse


def test_a_plan_names_points_and_actions() -> None:
    """A plan is read as it is meant: how often, and from which pass on."""
    text = "txn.reply=drop; env.fsync=errno:EIO*3 ;nl.add=errno:EBUSY;ready=signal:TERM@2;lock=sleep:0.5;grant=kill"
    assert parse(text) == {
        "txn.reply": Action("drop", "", 1, 1),
        "env.fsync": Action("errno", "EIO", 3, 1),
        "nl.add": Action("errno", "EBUSY", 1 << 30, 1),
        "ready": Action("signal", "TERM", 1, 2),
        "lock": Action("sleep", "0.5", 1, 1),
        "grant": Action("kill", "", 1, 1),
    }


@pytest.mark.parametrize(
    "text",
    ["nowhere=kill", "ready", "ready=", "ready=die", "ready=signal:NONE", "nl.add=errno:ENONE", "nl.add=errno",
     "ready=drop", "ready=errno:EIO", "lock=sleep:x", "lock=kill:9", "lock=kill@"],
)  # fmt: skip
def test_a_plan_that_cannot_happen_is_refused(text: str) -> None:
    """A plan with a mistake in it fails, rather than to do nothing."""
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


def test_an_action_happens_at_its_passes(tmp_path: Path) -> None:
    """An error comes as often as asked, from the pass on that was asked for; each point is noted once."""
    plan = Plan(parse("env.fsync=errno:EIO*2@2;txn.reply=drop"), tmp_path / "passed")
    met = []
    for _ in range(4):
        try:
            plan.reach("env.fsync")
        except OSError as error:
            met.append(error.errno)
        else:
            met.append(0)
    assert met == [0, errno.EIO, errno.EIO, 0]
    assert [plan.reach("txn.reply") for _ in range(2)] == [True, False]
    assert [line.split()[0] for line in (tmp_path / "passed").read_text().splitlines()] == ["env.fsync", "txn.reply"]


@pytest.mark.parametrize("target", HOOKS)
def test_what_a_hook_stands_in_for_exists(target: str) -> None:
    """A function that is renamed is noticed here, not by a fault that does not happen any more; it is a public one."""
    owner, name = place(target)
    assert hasattr(owner, name)
    assert not re.search(r"[.:]_(?!_)", target)


def test_there_are_24_points() -> None:
    """The points are those of the fault matrix."""
    assert len(set(POINTS)) == len(POINTS) == 24


def test_the_package_knows_nothing_of_them() -> None:
    """Nothing of this is in what is shipped."""
    package = Path(__file__).parents[2] / "pyflanneld"
    assert [path for path in package.rglob("*.py") if "failpoint" in path.read_text().lower()] == []
