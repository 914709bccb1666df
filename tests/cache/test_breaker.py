from pairlens_server.cache.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock, **options: float) -> Breaker:
    breaker = Breaker(clock, failures=3, **options)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_it_opens_at_the_last_of_several_failures_in_a_row():
    breaker = Breaker(Clock(), failures=3)
    assert [breaker.failed() for _ in range(2)] == [False, False]
    assert breaker.closed
    assert breaker.allows
    assert breaker.failed()
    assert not breaker.closed
    assert not breaker.allows
    assert breaker.rest_s == 1.0


def test_a_success_between_failures_begins_the_count_anew():
    breaker = Breaker(Clock(), failures=3)
    for _ in range(10):
        assert not breaker.failed()
        assert not breaker.failed()
        assert not breaker.succeeded()
    assert breaker.closed


def test_a_trial_is_due_after_a_while_and_closes_it():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.9
    assert not breaker.allows
    clock.now += 0.1
    assert breaker.allows
    assert not breaker.closed
    assert breaker.succeeded()
    assert breaker.closed
    assert breaker.rest_s == 0


def test_each_failed_trial_doubles_the_pause_up_to_a_bound():
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(7):
        pauses.append(breaker.rest_s)
        clock.now += breaker.rest_s
        assert not breaker.failed()  # it was open already
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_what_began_before_it_opened_changes_nothing():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.5
    assert not breaker.failed()
    assert not breaker.succeeded()
    assert breaker.rest_s == 0.5


def test_what_fails_right_after_a_trial_is_left_alone_for_longer():
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(4):
        pauses.append(breaker.rest_s)
        clock.now += breaker.rest_s
        assert breaker.succeeded()
        assert [breaker.failed() for _ in range(3)] == [False, False, True]
    assert pauses == [1, 2, 4, 8]


def test_two_successes_forget_the_past():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1
    breaker.failed()
    clock.now += 2
    breaker.succeeded()
    breaker.succeeded()
    for _ in range(3):
        breaker.failed()
    assert breaker.rest_s == 1


def test_it_can_be_opened_and_hurried():
    clock = Clock()
    breaker = Breaker(clock)
    breaker.hurry()
    assert breaker.closed
    breaker.trip()
    assert not breaker.allows
    clock.now += 0.25
    breaker.trip()
    assert breaker.rest_s == 0.75
    breaker.hurry()
    assert breaker.allows
    assert not breaker.closed
    assert breaker.succeeded()
