import pytest

from kata.errors import StateError
from kata.sandbox.states import SANDBOX_MOVES, STATUS_MOVES, SandboxState, Status, move_container, move_sandbox


def test_every_state_is_in_its_table() -> None:
    assert set(SANDBOX_MOVES) == set(SandboxState)
    assert set(STATUS_MOVES) == set(Status)


@pytest.mark.parametrize("now", list(SandboxState))
@pytest.mark.parametrize("then", list(SandboxState))
def test_a_sandbox_moves_as_its_table_says_and_not_otherwise(now: SandboxState, then: SandboxState) -> None:
    if then in SANDBOX_MOVES[now]:
        assert move_sandbox("s", now, then) is then
    else:
        with pytest.raises(StateError, match=f"sandbox s is {now}"):
            move_sandbox("s", now, then)


@pytest.mark.parametrize("now", list(Status))
@pytest.mark.parametrize("then", list(Status))
def test_a_container_moves_as_its_table_says_and_not_otherwise(now: Status, then: Status) -> None:
    if then in STATUS_MOVES[now]:
        assert move_container("c", now, then) is then
    else:
        with pytest.raises(StateError, match=f"container c is {now}"):
            move_container("c", now, then)


def test_every_sandbox_that_lives_can_be_stopped() -> None:
    for state in (SandboxState.CREATED, SandboxState.STARTING, SandboxState.RUNNING):
        assert SandboxState.STOPPING in SANDBOX_MOVES[state]


def test_a_container_can_stop_in_every_status_and_never_comes_back() -> None:
    for status in set(Status) - {Status.STOPPED}:
        assert Status.STOPPED in STATUS_MOVES[status]
    assert not STATUS_MOVES[Status.STOPPED]
