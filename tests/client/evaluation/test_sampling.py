from __future__ import annotations

from collections import Counter

from pairlens.evaluation.sampling import generator, round_robin

LABELS = ["a"] * 5 + ["b"] * 2 + ["c"] * 4


def test_generator_follows_from_its_parts() -> None:
    assert generator(0, "x").integers(1 << 30) == generator("0", "x").integers(1 << 30)
    assert generator(0, "x").integers(1 << 30) != generator(0, "y").integers(1 << 30)
    # Parts are kept apart.
    assert generator("ab", "c").integers(1 << 30) != generator("a", "bc").integers(1 << 30)


def test_classes_take_turns_until_they_run_out() -> None:
    order = round_robin(LABELS, range(11), seed=3)
    assert sorted(order) == list(range(11))
    turns = [Counter(LABELS[index] for index in order[:n]) for n in (3, 6, 8, 10, 11)]
    assert turns[0] == {"a": 1, "b": 1, "c": 1}
    assert turns[1] == {"a": 2, "b": 2, "c": 2}
    assert turns[2] == {"a": 3, "b": 2, "c": 3}
    assert turns[3] == {"a": 4, "b": 2, "c": 4}
    assert turns[4] == {"a": 5, "b": 2, "c": 4}


def test_the_seed_decides_and_unusable_pictures_are_left_out() -> None:
    assert round_robin(LABELS, range(11), 3) == round_robin(LABELS, range(11), 3)
    assert round_robin(LABELS, range(11), 3) != round_robin(LABELS, range(11), 4)
    assert sorted(round_robin(LABELS, [0, 6, 8], 3)) == [0, 6, 8]
    assert round_robin(LABELS, [], 3) == []
