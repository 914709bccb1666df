"""What /livez and /readyz say in each phase."""

import time

import pytest

from pairlens_server.telemetry.state import SILENT_S, Phase, ServerState


@pytest.mark.parametrize(
    ("phase", "ready", "live"),
    [
        (Phase.LOADING, "loading", True),
        (Phase.SERVING, "", True),
        (Phase.DRAINING, "draining", True),
        (Phase.DEAD, "dead", False),
    ],
)
def test_phases(phase, ready, live):
    state = ServerState(300)
    state.beat()
    state.phase = phase
    assert state.ready() == ready
    assert (state.live() == []) is live


def test_a_server_never_goes_back():
    state = ServerState(300)
    state.phase = Phase.DRAINING
    state.phase = Phase.SERVING
    assert state.phase is Phase.DRAINING


def test_a_silent_event_loop_is_told_once_it_has_ever_beaten():
    state = ServerState(300)
    now_s = time.monotonic()
    assert state.live(now_s + 1000) == []
    state.beat()
    assert state.live(now_s + SILENT_S - 1) == []
    assert state.live(now_s + SILENT_S + 5) == ["the event loop has been silent for 15 s"]
    state.beat()
    assert state.live() == []


def test_a_batch_that_never_ends_is_told():
    state = ServerState(stall_s=8)
    now_s = time.monotonic()
    state.beat(running_s=5.0)
    assert state.live(now_s + 2) == []
    (problem,) = state.live(now_s + 4)
    assert problem == "a batch has been on the device for 9 s"
    state.beat(running_s=0.1)
    assert state.live(now_s + 4) == []
    state.beat(running_s=None)
    assert state.live(now_s + 9) == []


def test_a_broken_device_is_told_before_the_phase_is_set():
    state = ServerState(300)
    state.phase = Phase.SERVING
    state.beat(broken=True)
    assert state.live() == ["the device can run nothing any more"]
    assert state.ready() == "dead"


def test_several_problems_at_once():
    state = ServerState(stall_s=1)
    state.beat(running_s=3.0, broken=True)
    assert len(state.live(time.monotonic() + 60)) == 3


def test_a_server_that_hangs_is_not_ready_either():
    state = ServerState(stall_s=8)
    state.phase = Phase.SERVING
    state.beat()
    now_s = time.monotonic()
    assert state.ready(now_s + SILENT_S - 1) == ""
    assert state.ready(now_s + SILENT_S + 5) == "the event loop has been silent for 15 s"
    state.beat(running_s=9.0)
    assert state.ready() == "a batch has been on the device for 9 s"
    state.beat()
    assert state.ready() == ""
    state.phase = Phase.DRAINING
    assert state.ready(now_s + SILENT_S + 5) == "draining"
