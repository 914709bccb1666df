import pytest
import torch

from pairlens_server.fidelity.copies import (
    CLEAN,
    ClassProbe,
    MapOnInput,
    Ranking,
    SimilarityProbe,
    blended,
    erased,
    filled,
    kept,
)
from pairlens_server.fidelity.placing import ErasureUnit
from pairlens_server.fidelity.substrates import Filling, Substrate
from pairlens_server.recording.targets import Similarity

BLACK = Filling(Substrate.BLACK, (-1.0, -2.0, -3.0))
MEAN = Filling(Substrate.MEAN, (0.0, 0.0, 0.0))
PIXELS = Ranking(ErasureUnit.PIXELS, flipped_ties=False)
FLIPPED = Ranking(ErasureUnit.PIXELS, flipped_ties=True)

# A picture of 2 x 2 pixels, most relevant first: right top, left bottom, left top, right bottom.
RANKS = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)
MASK = torch.tensor([[0.25, 1.0], [0.5, 0.0]])
MAP = MapOnInput({PIXELS: RANKS, FLIPPED: 3 - RANKS}, MASK)
PICTURE = torch.arange(12, dtype=torch.float32).reshape(3, 2, 2) + 1


class Linear:
    """A model whose logits and embedding are linear in the pixels."""

    def __init__(self, outputs: int):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(12, outputs, generator=generator) / 10
        self.batches: list[int] = []

    def log_probabilities(self, pixels):
        self.batches.append(len(pixels))
        return torch.log_softmax(pixels.flatten(1) @ self.weights, dim=1)

    def embeddings(self, pixels):
        self.batches.append(len(pixels))
        return pixels.flatten(1) @ self.weights


def test_equal_pictures_are_equal_copies():
    assert erased(MEAN, PIXELS, 0, 4) == kept(MEAN, PIXELS, 4, 4) == CLEAN
    assert erased(MEAN, PIXELS, 4, 4) == kept(MEAN, PIXELS, 0, 4) == filled(MEAN)
    assert erased(MEAN, FLIPPED, 4, 4) == filled(MEAN)
    assert erased(MEAN, PIXELS, 2, 4) != erased(MEAN, FLIPPED, 2, 4)
    assert erased(MEAN, PIXELS, 2, 4) != erased(BLACK, PIXELS, 2, 4)
    # Erasing from the least relevant end passes the same pictures as putting back.
    least_first = {kept(MEAN, PIXELS, 4 - count, 4) for count in range(5)}
    assert least_first == {kept(MEAN, PIXELS, count, 4) for count in range(5)}


def test_copies_hold_what_they_say():
    wanted = [
        CLEAN,
        filled(BLACK),
        erased(BLACK, PIXELS, 1, 4),
        erased(MEAN, PIXELS, 2, 4),
        kept(BLACK, PIXELS, 1, 4),
        kept(MEAN, FLIPPED, 1, 4),
        blended(BLACK),
    ]
    clean, black, first, two, top, bottom, blend = MAP.make(PICTURE, wanted)
    assert clean.tolist() == PICTURE.tolist()
    assert black[:, 0, 0].tolist() == [-1, -2, -3]
    assert (black == black[:, :1, :1]).all()
    assert first[0].tolist() == [[1, -1], [3, 4]]
    assert two[1].tolist() == [[5, 0], [0, 8]]
    assert top[0].tolist() == [[-1, 2], [-1, -1]]
    assert bottom[2].tolist() == [[0, 0], [0, 12]]
    # 0.25 * 1 + 0.75 * (-1), 2, 0.5 * 3 + 0.5 * (-1), -1
    assert blend[0].tolist() == [[-0.5, 2], [1, -1]]


def test_a_picture_is_not_changed_by_making_copies_of_it():
    before = PICTURE.clone()
    made = MAP.make(PICTURE, [CLEAN, erased(MEAN, PIXELS, 3, 4)])
    made += 1
    assert torch.equal(PICTURE, before)


COPIES = (filled(MEAN), *(erased(MEAN, PIXELS, n, 4) for n in (1, 2, 3)), blended(BLACK))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_cut_into_chunks_gives_the_same_scores(size):
    model = Linear(4)
    probe = ClassProbe(COPIES, MAP, (2, 0))
    parts = [
        probe.run(model, PICTURE[None], start, min(start + size, probe.steps))
        for start in range(0, probe.steps, size)
    ]
    expected = model.log_probabilities(MAP.make(PICTURE, COPIES))[:, [2, 0]]
    torch.testing.assert_close(probe.combine(parts), expected)
    assert max(model.batches[:-1]) <= size


def test_one_pass_over_both_pictures_gives_all_three_sides():
    model = Linear(6)
    other = PICTURE.flip(2) * 0.5 - 1
    turned = MapOnInput({PIXELS: RANKS.flip(0)}, MASK)
    copies = COPIES[:4]
    clean = model.embeddings(torch.stack([PICTURE, other]))
    targets = (Similarity.to(clean[1:]), Similarity.to(clean[:1]))
    probe = SimilarityProbe(copies, (MAP, turned), targets, embeddings=True)
    model.batches.clear()
    result = probe.combine([probe.run(model, torch.stack([PICTURE, other]), 0, 4)])
    assert model.batches == [8]
    assert (probe.steps, probe.weight) == (4, 2)

    images = model.embeddings(MAP.make(PICTURE, copies))
    partners = model.embeddings(turned.make(other, copies))
    cosine = torch.cosine_similarity
    torch.testing.assert_close(result[:, 0], cosine(images, clean[1:]))
    torch.testing.assert_close(result[:, 1], cosine(partners, clean[:1]))
    torch.testing.assert_close(result[:, 2], cosine(images, partners))
    torch.testing.assert_close(result[:, 3:], torch.cat([images, partners], dim=1))


def test_copies_that_are_imputed_weigh_double():
    """Filling them takes about as long as a small network's pass."""
    imputed = filled(Filling(Substrate.NOISY_LINEAR, (0.0, 0.0, 0.0)))
    target = Similarity.to(torch.ones(1, 6))
    for copies, weight in ((COPIES, 1), ((CLEAN,), 1), ((*COPIES, imputed), 2)):
        assert ClassProbe(copies, MAP, (0,)).weight == weight
        for maps in ((MAP,), (MAP, MAP)):
            probe = SimilarityProbe(copies, maps, (target,) * len(maps))
            assert probe.weight == weight * len(maps)


def test_a_copy_without_an_embedding_has_similarity_zero():
    model = Linear(6)
    clean = model.embeddings(PICTURE[None])
    probe = SimilarityProbe((filled(MEAN),), (MAP, MAP), (Similarity.to(clean),) * 2)
    assert probe.run(model, torch.stack([PICTURE, PICTURE]), 0, 1).tolist() == [[0, 0, 0]]
