"""The retrieval metrics, against examples worked out by hand and a slow definition."""

import pytest
import torch
from metrics import pointing, retrieval, top1


def at_angles(*degrees: float) -> torch.Tensor:
    """Return unit vectors in the plane."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_hand_checked_example():
    # Places on a circle: a 0, a 10, b 13, a 30, b 32, b 80 degrees; R = 2 for every query.
    #   a 0:  a10 b13      right wrong -> R@1 1, AP (1/1) / 2         = 0.5
    #   a 10: b13 a0       wrong right -> R@1 0, AP (1/2) / 2         = 0.25
    #   b 13: a10 a0       wrong wrong -> R@1 0, AP 0
    #   a 30: b32 b13      wrong wrong -> R@1 0, AP 0
    #   b 32: a30 b13      wrong right -> R@1 0, AP (1/2) / 2         = 0.25
    #   b 80: b32 a30      right wrong -> R@1 1, AP (1/1) / 2         = 0.5
    embeddings = at_angles(0, 10, 13, 30, 32, 80)
    labels = torch.tensor([0, 0, 1, 0, 1, 1])
    recall, precision = retrieval(embeddings, labels)
    assert recall == pytest.approx(2 / 6)
    assert precision == pytest.approx(1.5 / 6)


def test_length_of_embeddings_does_not_matter():
    embeddings = at_angles(0, 10, 13, 30, 32, 80)
    labels = torch.tensor([0, 0, 1, 0, 1, 1])
    lengths = torch.tensor([1.0, 5.0, 0.1, 3.0, 2.0, 9.0])[:, None]
    assert retrieval(embeddings * lengths, labels) == pytest.approx(retrieval(embeddings, labels))


def test_query_alone_in_its_class_is_left_out():
    embeddings = at_angles(0, 1, 90)
    assert retrieval(embeddings, torch.tensor([0, 0, 1])) == pytest.approx((1.0, 1.0))


def test_agrees_with_the_definition():
    gen = torch.Generator().manual_seed(1)
    embeddings = torch.randn((60, 5), generator=gen)
    labels = torch.randint(4, (60,), generator=gen)
    recalls, averages = [], []
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    for query in range(60):
        others = sorted((j for j in range(60) if j != query), key=lambda j: -unit[query] @ unit[j])
        hits = [bool(labels[j] == labels[query]) for j in others]
        count = sum(hits)
        recalls.append(float(hits[0]))
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(count) if hits[i]]
        averages.append(sum(precisions) / count)
    expected = (sum(recalls) / 60, sum(averages) / 60)
    assert retrieval(embeddings, labels) == pytest.approx(expected, abs=1e-5)


def test_top1():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert top1(logits, torch.tensor([1, 0, 0])) == pytest.approx(2 / 3)


def test_pointing_asks_whether_the_highest_cell_lies_in_the_box():
    maps = torch.zeros(3, 4, 4)
    maps[:, 1, 2] = 1  # its centre is at x 0.625, y 0.375
    boxes = torch.tensor([[0.5, 0.25, 0.75, 0.5], [0.63, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.37]])
    assert pointing(maps, boxes) == pytest.approx(1 / 3)
