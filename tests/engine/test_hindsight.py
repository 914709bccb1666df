import pytest

from pairlens_server.engine.hindsight import Hindsight, Pace


def seen(*shares, now_s=0.0):
    """After entries that took so much of their 2 s more than the 1 s that was foreseen."""
    hindsight = Hindsight()
    for share in shares:
        hindsight.took(1.0 + 2.0 * share, 1.0, 2.0, now_s)
    return hindsight


def test_nothing_is_kept_back_while_forecasts_hold():
    assert Hindsight().reserve(0.0) == 0.0
    assert seen(0.0, -0.2, -0.4).reserve(0.0) == 0.0


def test_all_but_one_in_two_hundred_would_have_been_in_time():
    hindsight = seen(*(n / 1000 for n in range(1, 401)))
    assert hindsight.reserve(0.0) == pytest.approx(0.399)
    assert seen(*[0.0] * 399, 0.4).reserve(0.0) == 0.0
    assert seen(*[0.0] * 397, 0.4, 0.4, 0.4).reserve(0.0) == 0.4


def test_one_that_was_given_up_counts_as_more_than_it_was_allowed():
    hindsight = Hindsight()
    hindsight.missed(1.6, 2.0, 0.0)
    assert hindsight.reserve(0.0) == pytest.approx(1.2 - 0.8)
    hindsight.missed(0.1, 2.0, 0.0)
    assert hindsight.reserve(0.0) == 0.5  # something is always tried


def test_what_was_seen_is_forgotten():
    hindsight = seen(0.3)
    assert hindsight.reserve(30.0) == pytest.approx(0.3)
    assert hindsight.reserve(30.5) == 0.0
    hindsight = seen(0.3)
    for _ in range(4095):
        hindsight.took(1.0, 1.0, 2.0, 1.0)
    assert len(hindsight._seen) == 4096
    hindsight.took(1.0, 1.0, 2.0, 1.0)
    assert [len(hindsight._seen), hindsight._shares] == [4096, [0.0] * 4096]


def test_what_is_forgotten_is_what_was_seen_first():
    hindsight = Hindsight()
    for place, share in enumerate((0.4, 0.1, 0.4, 0.2)):
        hindsight.took(1.0 + 2.0 * share, 1.0, 2.0, 10.0 * place)
    assert hindsight.reserve(35.0) == pytest.approx(0.4)
    assert hindsight.reserve(45.0) == pytest.approx(0.4)
    assert hindsight.reserve(55.0) == pytest.approx(0.2)
    assert hindsight.reserve(65.0) == 0.0


def test_the_pace_of_making_pixels_is_that_of_those_who_wait():
    pace = Pace()
    assert pace.seconds(5) == 0.0
    for seconds, before in ((0.3, 2), (0.4, 3), (9.0, 0)):
        pace.made(seconds, before)
    assert pace.seconds(4) == pytest.approx(0.5)
    assert pace.seconds(0) == pytest.approx(0.1)
