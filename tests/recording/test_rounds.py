"""Backward passes that pictures share."""

from pairlens_server.recording.rounds import rounds
from pairlens_server.recording.targets import ClassLogit

A, B, C = ClassLogit(0), ClassLogit(1), ClassLogit(None)


def test_pictures_with_different_targets_share_one_pass():
    assert rounds([(A, [0, 2]), (B, [1])]) == [{0: A, 2: A, 1: B}]


def test_two_targets_of_one_picture_need_two_passes():
    assert rounds([(A, [0, 1]), (B, [0]), (C, [1])]) == [{0: A, 1: A}, {0: B, 1: C}]


def test_repetitions_add_nothing():
    assert rounds([(A, [0, 1]), (A, [1]), (B, [1]), (A, [0])]) == [{0: A, 1: A}, {1: B}]


def test_three_targets_of_one_picture_beside_one_of_another():
    assert rounds([(A, [0]), (B, [0]), (C, [0]), (B, [3])]) == [{0: A, 3: B}, {0: B}, {0: C}]


def test_every_pair_of_target_and_picture_has_its_pass_and_no_pass_is_spare():
    wanted = [(A, [0, 1, 2, 3]), (B, [1, 3]), (C, [0, 3]), (A, [3])]
    passes = rounds(wanted)
    pairs = {(target, picture) for target, pictures in wanted for picture in pictures}
    assert {(t, p) for one in passes for p, t in one.items()} == pairs
    assert len(passes) == 3  # picture 3 has three targets


def test_nothing_wanted_is_no_pass():
    assert rounds([]) == []
    assert rounds([(A, [])]) == []
