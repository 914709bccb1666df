"""Targets: which number a map is of."""

import pytest
import torch

from pairlens_server.recording.targets import ClassLogit, Similarity, class_indices, scores

LOGITS = torch.tensor([[1.0, 5, 2], [4, 0, -1]])
EMBEDDINGS = torch.tensor([[3.0, 4], [1, 0]])


def test_every_picture_has_its_own_score():
    to_x = Similarity.to(torch.tensor([[2.0, 0]]))
    found = scores([ClassLogit(2), to_x], LOGITS, EMBEDDINGS)
    assert found.tolist() == [2.0, 1.0]
    found = scores([to_x, ClassLogit(None)], LOGITS, EMBEDDINGS)
    torch.testing.assert_close(found, torch.tensor([0.6, 4.0]))
    torch.testing.assert_close(scores([ClassLogit()], LOGITS[:1], None), torch.tensor([5.0]))


def test_the_predicted_class_is_the_largest():
    assert class_indices([None, 1], LOGITS).tolist() == [1, 1]
    assert class_indices([0, None], LOGITS).tolist() == [0, 0]


def test_a_similarity_is_the_sum_of_cosines():
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(4, 6, generator=generator)
    embeddings = torch.randn(3, 6, generator=generator)
    target = Similarity.to(gallery)
    cosines = torch.nn.functional.cosine_similarity(
        embeddings[:, None].double(), gallery[None].double(), dim=-1
    )
    found = scores([target] * 3, None, embeddings)
    torch.testing.assert_close(found.double(), cosines.sum(1), atol=1e-6, rtol=0)


def test_the_length_of_the_other_embeddings_does_not_matter():
    gallery = torch.tensor([[3.0, 4], [0, 2]])
    scaled = gallery * torch.tensor([[10.0], [0.01]])
    assert Similarity.to(gallery) == Similarity.to(scaled)
    torch.testing.assert_close(Similarity.to(gallery).vector, torch.tensor([0.6, 1.8]))


def test_the_gradient_of_a_cosine_is_at_right_angles_to_the_embedding():
    embedding = torch.tensor([[1.0, 2, -3]], requires_grad=True)
    target = Similarity.to(torch.tensor([[0.5, 1, 4]]))
    (slope,) = torch.autograd.grad(scores([target], None, embedding).sum(), embedding)
    torch.testing.assert_close((slope * embedding).sum(), torch.tensor(0.0))
    assert float(slope.norm()) > 0.1


def test_scores_are_float32_from_half_precision():
    found = scores([ClassLogit(0)], LOGITS.bfloat16(), None)
    assert found.dtype == torch.float32


def test_equal_targets_are_equal_keys_and_others_are_not():
    first, second = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 1]])
    assert Similarity.to(first) == Similarity.to(first.clone())
    assert Similarity.to(first).key == Similarity.to(2 * first).key
    assert Similarity.to(first).key != Similarity.to(second).key
    keys = {ClassLogit(0).key, ClassLogit(1).key, ClassLogit(None).key, Similarity.to(first).key}
    assert keys >= {"class 0", "class 1", "class predicted"}
    assert len(keys) == 4
    assert len(Similarity.to(first).key) < 100


def test_the_direction_survives_being_bytes():
    vector = torch.tensor([[0.1, -0.2, 0.3]])
    torch.testing.assert_close(Similarity.to(vector).vector, (vector / vector.norm())[0])
    assert len(Similarity.to(vector).direction) == 12


@pytest.mark.parametrize("targets", [[ClassLogit(0)], [Similarity.to(torch.ones(1, 2))]])
def test_scores_have_a_gradient(targets):
    logits, embeddings = LOGITS[:1].clone(), EMBEDDINGS[:1].clone()
    found = scores(targets, logits.requires_grad_(True), embeddings.requires_grad_(True))
    assert found.requires_grad
