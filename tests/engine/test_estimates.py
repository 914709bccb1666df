import pytest

from pairlens_server.engine.estimates import Estimates


def measured(*batches, now_s=0.0, times=3):
    """Estimates after batches of a cost and seconds, each run so often."""
    estimates = Estimates()
    for cost, seconds in batches:
        for _ in range(times):
            estimates.observe("m", cost, seconds, now_s)
    return estimates


def test_nothing_is_said_before_three_batches_and_long_after_the_last():
    estimates = Estimates()
    for _ in range(2):
        estimates.observe("m", 4.0, 2.0, 10.0)
    assert estimates.seconds("m", 4.0, 10.0) is None
    estimates.observe("m", 4.0, 2.0, 10.0)
    assert estimates.seconds("m", 4.0, 40.0) == 2.0
    assert estimates.seconds("m", 4.0, 40.5) is None
    assert estimates.seconds("other", 4.0, 10.0) is None
    # What was measured before a long pause does not count with what comes after.
    estimates.observe("m", 4.0, 6.0, 50.0)
    assert estimates.seconds("m", 4.0, 50.0) is None


def test_a_median_of_the_last_nine_is_told():
    estimates = measured((4.0, 1.0), (4.0, 2.0), (4.0, 30.0))
    assert estimates.seconds("m", 4.0, 0.0) == 2.0
    for _ in range(9):
        estimates.observe("m", 4.0, 3.0, 0.0)
    assert estimates.seconds("m", 4.0, 0.0) == 3.0


def test_sizes_that_were_not_measured_lie_on_lines():
    # 10 ms and 1 ms a pass.
    estimates = measured((1.0, 0.011), (4.0, 0.014), (16.0, 0.026))
    for cost in (1, 4, 8, 16, 32, 100):
        assert estimates.seconds("m", cost, 0.0) == pytest.approx(0.010 + 0.001 * cost)


def test_one_size_alone_speaks_for_all_in_proportion():
    estimates = measured((4.0, 2.0))
    assert [estimates.seconds("m", c, 0.0) for c in (1.0, 4.0, 16.0)] == [0.5, 2.0, 8.0]


def test_larger_batches_are_never_taken_to_be_faster_or_worse_than_in_proportion():
    assert measured((1.0, 5.0), (2.0, 3.0)).seconds("m", 16.0, 0.0) == 3.0
    assert measured((1.0, 1.0), (2.0, 9.0)).seconds("m", 16.0, 0.0) == pytest.approx(72.0)


@pytest.mark.parametrize(
    ("seconds", "thrifty"),
    [
        (lambda cost: 0.1 * cost, 1.0),
        (lambda cost: 0.01 + 0.001 * cost, 16.0),
        (lambda cost: 0.002 + 0.01 * cost, 2.0),
    ],
)
def test_the_thrifty_size_runs_at_nine_tenths_of_the_best_speed(seconds, thrifty):
    estimates = measured(*((c, seconds(c)) for c in (1.0, 2.0, 4.0, 8.0, 16.0)))
    assert estimates.thrifty_cost("m", 16.0, 0.0) == thrifty


def test_the_margin_follows_how_much_batches_differ():
    even = measured((4.0, 1.0), times=40)
    assert even.slow_factor("m") == 1.25
    assert even.slow_factor("unknown") == 1.25
    uneven = Estimates()
    for number in range(40):
        uneven.observe("m", 4.0, 1.3 if number % 5 == 0 else 1.0, 0.0)
    assert uneven.slow_factor("m") == pytest.approx(1.25 * 1.3)
    for _ in range(9):
        uneven.observe("m", 4.0, 50.0, 0.0)
    assert uneven.slow_factor("m") == 2.0


def test_one_outlier_leaves_the_margin_as_it_is():
    estimates = measured((4.0, 1.0), times=20)
    estimates.observe("m", 4.0, 50.0, 0.0)
    assert estimates.slow_factor("m") == 1.25


def test_all_can_be_forgotten():
    estimates = measured((4.0, 2.0))
    estimates.forget("m")
    assert estimates.seconds("m", 4.0, 0.0) is None
