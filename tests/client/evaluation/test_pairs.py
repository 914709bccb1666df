from __future__ import annotations

import numpy as np

from pairlens.evaluation.pairs import eligible_queries, pair_case


def unit(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_partners_by_hand() -> None:
    vectors = unit(0, 30, 10, 50, 20, 5)
    labels = ["a", "a", "a", "a", "b", "b"]
    found = pair_case(0, vectors, labels, list("uvwxyz"), range(6))
    assert (found.positive, found.second, found.negative) == (2, 1, 5)
    assert found.duplicates == (0,)


def test_copies_of_a_file_are_no_partners() -> None:
    # 1 is the query's file under another class, 2 under its own; 4 is a copy of 3.
    vectors = unit(0, 0, 0, 10, 10, 20, 40)
    labels = ["a", "b", "a", "a", "a", "a", "b"]
    found = pair_case(0, vectors, labels, list("qqqpprn"), range(7))
    assert (found.positive, found.second, found.negative) == (3, 5, 6)
    assert found.duplicates == (0, 1, 2)


def test_pictures_without_an_embedding_are_no_partners() -> None:
    vectors = unit(0, 10, 20, 30, 5, 50)
    vectors[1] = vectors[4] = np.nan
    found = pair_case(0, vectors, list("aaaabb"), list("uvwxyz"), [0, 2, 3, 5])
    assert (found.positive, found.second, found.negative) == (2, 3, 5)


def test_queries_need_two_others_of_their_class_and_one_of_another() -> None:
    labels = ["a", "a", "a", "b", "b", "c", "c", "c"]
    assert eligible_queries(labels, list("stuvwxyz"), range(8)) == [0, 1, 2, 5, 6, 7]
    # Two of class a are one file.
    assert eligible_queries(labels, list("ssuvwxyz"), range(8)) == [5, 6, 7]
    assert eligible_queries(labels, list("stuvwxyz"), [0, 1, 3, 5, 6, 7]) == [5, 6, 7]
    # Nothing else than the class itself, or than a copy of the query.
    assert eligible_queries(["a"] * 4, list("stuv"), range(4)) == []
    assert eligible_queries(["a", "a", "a", "b"], list("stus"), range(4)) == [1, 2]
