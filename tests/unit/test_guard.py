"""The withdrawal guard: few may leave at once, most may leave only when three lists have said so."""

from collections.abc import Iterable
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.peers.guard import FEW, LIST_SPACING_S, LISTS_NEEDED, WINDOW_S, WithdrawGuard

NONE: frozenset[IPv4Network] = frozenset()


def nets(numbers: Iterable[int]) -> frozenset[IPv4Network]:
    return frozenset(IPv4Network((0x0A050000 + (number << 8), 24)) for number in numbers)


def holding(count: int, *, now_s: float = 100.0) -> tuple[WithdrawGuard, frozenset[IPv4Network]]:
    """A guard that has just begun to hold *count* routes, which were all there were."""
    guard, lost = WithdrawGuard(), nets(range(count))
    assert guard.allow(lost, count, now_s) == NONE
    return guard, lost


def test_the_numbers_are_those_of_the_design() -> None:
    """More than 3 and more than half, within 5 s; two more lists, 10 s apart."""
    assert (FEW, WINDOW_S, LISTS_NEEDED, LIST_SPACING_S) == (3, 5.0, 2, 10.0)


@pytest.mark.parametrize(("leaving", "present"), [(0, 0), (1, 1), (3, 3), (3, 4), (4, 8), (50, 100), (1999, 4000)])
def test_small_withdrawals_pass(leaving: int, present: int) -> None:
    """Up to three, or up to half of all routes, go at once."""
    guard = WithdrawGuard()
    assert guard.allow(nets(range(leaving)), present, 0.0) == nets(range(leaving))
    assert guard.held == NONE


@pytest.mark.parametrize(("leaving", "present"), [(4, 4), (4, 7), (51, 100), (4000, 4000)])
def test_mass_withdrawals_are_held(leaving: int, present: int) -> None:
    """More than three and more than half: none of them goes."""
    guard = WithdrawGuard()
    assert guard.allow(nets(range(leaving)), present, 0.0) == NONE
    assert guard.held == nets(range(leaving))


def test_two_more_lists_release() -> None:
    """Two complete lists, each 10 s after what went before, prove the loss; then all go, and stay allowed."""
    guard, lost = holding(9)
    guard.list_applied(110.0)
    assert guard.allow(lost, 9, 110.0) == NONE
    guard.list_applied(120.0)
    assert guard.held == NONE
    assert guard.allow(lost, 9, 120.0) == lost
    assert guard.allow(lost, 9, 121.0) == lost
    assert guard.held == NONE


def test_one_list_is_not_enough() -> None:
    """However much time goes by, one list more does not prove it."""
    guard, lost = holding(9)
    guard.list_applied(10_000.0)
    assert guard.allow(lost, 9, 20_000.0) == NONE


def test_time_alone_proves_nothing() -> None:
    """Without lists nothing is released, ever."""
    guard, lost = holding(9)
    for day in range(1, 400):
        assert guard.allow(lost, 9, day * 86400.0) == NONE


def test_a_list_too_early_does_not_count() -> None:
    """Lists in quick succession are one: they may come from the same mistaken server."""
    guard, lost = holding(9)
    for now_s in (100.0, 101.0, 109.9, 110.0, 115.0, 119.9):
        guard.list_applied(now_s)
        assert guard.allow(lost, 9, now_s) == NONE
    guard.list_applied(120.0)
    assert guard.allow(lost, 9, 120.0) == lost


def test_a_list_from_an_older_history_is_no_second_opinion() -> None:
    """It takes two more after it, whatever was said before."""
    guard, lost = holding(9)
    guard.list_applied(110.0)
    guard.distrust()
    for now_s in (120.0, 130.0):
        guard.list_applied(now_s)
        assert guard.allow(lost, 9, now_s) == NONE
    guard.list_applied(140.0)
    assert guard.allow(lost, 9, 140.0) == lost


def test_what_was_proved_is_not_proved_in_another_history() -> None:
    """Not even when nobody has looked at the routes since."""
    guard, lost = holding(9)
    for now_s in (110.0, 120.0):
        guard.list_applied(now_s)
    guard.distrust()
    guard.list_applied(130.0)
    assert guard.allow(lost, 9, 130.0) == NONE
    for now_s in (140.0, 150.0):
        guard.list_applied(now_s)
    assert guard.allow(lost, 9, 150.0) == lost


def test_lists_before_the_loss_do_not_count() -> None:
    """Proof begins with the loss."""
    guard, lost = WithdrawGuard(), nets(range(9))
    for now_s in (0.0, 20.0, 40.0):
        guard.list_applied(now_s)
    assert guard.allow(lost, 9, 41.0) == NONE
    guard.list_applied(51.0)
    assert guard.allow(lost, 9, 51.0) == NONE


def test_restored_keys_are_let_go() -> None:
    """What is wanted again is neither held nor proved; what is not stays held."""
    guard, lost = holding(9)
    assert guard.allow(nets(range(4)), 9, 101.0) == NONE
    assert guard.held == nets(range(4))
    assert guard.allow(NONE, 9, 102.0) == NONE
    assert guard.held == NONE
    assert guard.allow(lost, 9, 103.0) == NONE


def test_a_peer_restored_after_the_proof_is_small_again() -> None:
    """Once a proved route is wanted again the proof is spent."""
    guard, lost = holding(9)
    guard.list_applied(110.0)
    guard.list_applied(120.0)
    assert guard.allow(NONE, 9, 121.0) == NONE
    assert guard.allow(lost, 9, 122.0) == NONE
    assert guard.held == lost


def test_a_second_loss_while_holding_starts_the_proof_anew() -> None:
    """While anything is held every further loss is held with it, and both wait for two lists more."""
    guard, lost = holding(9)
    guard.list_applied(110.0)
    more = lost | nets([40])
    assert guard.allow(more, 100, 112.0) == NONE
    assert guard.held == more
    guard.list_applied(120.0)
    assert guard.held == more
    guard.list_applied(122.0)
    guard.list_applied(132.0)
    assert guard.allow(more, 100, 132.0) == more


def test_small_losses_within_the_window_add_up() -> None:
    """A prefix deleted key by key is a mass withdrawal too."""
    guard, gone = WithdrawGuard(), []
    for number in range(3):
        assert guard.allow(nets([number]), 6 - number, float(number)) == nets([number])
        gone.append(number)
    assert guard.allow(nets([3]), 3, 3.0) == NONE
    assert guard.held == nets([3])


def test_small_losses_far_apart_do_not_add_up() -> None:
    """What left more than 5 s ago is forgotten."""
    guard = WithdrawGuard()
    for number in range(0, 6, 2):
        pair = nets([number, number + 1])
        assert guard.allow(pair, 7 - number, number / 2 * (WINDOW_S + 0.1)) == pair


def test_small_losses_are_measured_against_all_that_there_was() -> None:
    """Half of all means of what stood at the window's beginning: 3 and then 2 of 12 are few, 3 and then 4 are not."""
    for second, few in ((2, True), (4, False)):
        guard = WithdrawGuard()
        assert guard.allow(nets(range(3)), 12, 0.0) == nets(range(3))
        more = nets(range(3, 3 + second))
        assert guard.allow(more, 9, 1.0) == (more if few else NONE)


def test_a_drop_that_is_tried_again_counts_once() -> None:
    """A route that the kernel would not give up stays idle; trying again is no further loss."""
    guard = WithdrawGuard()
    for attempt in range(10):
        assert guard.allow(nets([1, 2]), 4, attempt * 0.5) == nets([1, 2])
    assert guard.allow(nets([1, 2, 3]), 4, 5.0) == nets([1, 2, 3])


def test_distrust_holds_any_withdrawal() -> None:
    """Row F19: after a step back in history, or from another cluster, one route is too many."""
    guard = WithdrawGuard()
    guard.distrust()
    assert guard.allow(nets([1]), 100, 0.0) == NONE
    assert guard.held == nets([1])
    guard.list_applied(10.0)
    guard.list_applied(20.0)
    assert guard.allow(nets([1]), 100, 20.0) == nets([1])


def test_distrust_ends_with_the_list_it_was_about() -> None:
    """A list that withdraws nothing is harmless, and the next loss is judged as any other."""
    guard = WithdrawGuard()
    guard.distrust()
    assert guard.allow(NONE, 100, 0.0) == NONE
    assert guard.allow(nets([1]), 100, 1.0) == nets([1])


def test_without_the_guard_all_pass() -> None:
    """Switched off it holds nothing, whatever happens."""
    guard = WithdrawGuard(enabled=False)
    guard.distrust()
    assert guard.allow(nets(range(99)), 99, 0.0) == nets(range(99))
    assert guard.held == NONE


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("list", "list", "look", "look", "distrust")),
        st.sampled_from((0.1, 1.0, 4.0, 6.0, 10.0, 30.0)), st.sets(st.integers(0, 9)) | st.just(set(range(10))),
    ),
    max_size=25,
)  # fmt: skip


@given(STEPS)
def test_nothing_held_goes_without_its_proof(steps: list[tuple[str, float, set[int]]]) -> None:
    """In any history: what goes was idle, and what was held goes only after two lists 10 s apart since it was held."""
    guard, now_s = WithdrawGuard(), 0.0
    proof: dict[IPv4Network, list[float]] = {}  # held: when, and the lists since that were far enough apart
    for what, delay_s, numbers in steps:
        now_s += delay_s
        if what == "distrust":
            guard.distrust()
        elif what == "list":
            guard.list_applied(now_s)
            for times in proof.values():
                times.extend([now_s] if now_s - times[-1] >= LIST_SPACING_S else [])
        elif what == "look":
            idle = nets(numbers)
            allowed = guard.allow(idle, 10, now_s)
            assert allowed <= idle
            assert guard.held == idle - allowed
            assert all(len(proof[dst]) > LISTS_NEEDED for dst in allowed if dst in proof)
            proof = {dst: times for dst, times in proof.items() if dst in idle}
            for dst in guard.held:
                proof.setdefault(dst, [now_s])
