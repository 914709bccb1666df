import copy

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from pairlens_server.recording.relevance import (
    ClassSeed,
    SimilaritySeed,
    transformer_attribution,
)
from tests.recording.relevance import oracle
from tests.support import pixels, vit

DISTILLED = "deit_tiny_distilled_patch16_224"
KINDS = {
    "class token": {"pooling": "token"},
    "registers": {"pooling": "token", "reg_tokens": 4},
    "distilled": {"pooling": "token", "architecture": DISTILLED},
    "mean": {},
    "mean, norm before pooling": {"fc_norm": False},
    "mean beside a class token": {"class_token": True},
    "mean over prefix too": {"class_token": True, "pool_include_prefix": True},
    "query-key norm": {"pooling": "token", "qk_norm": True},
    "layer scale": {"pooling": "token", "init_values": 0.3},
    "no biases": {"pooling": "token", "qkv_bias": False, "proj_bias": False},
    "wide": {"pooling": "token", "embed_dim": 96, "num_heads": 3},
}
CLASSES = torch.tensor([3, 0, 1])


def build(kind):
    return vit(dtype=torch.float64, **KINDS[kind])


def unit_directions(count, size):
    generator = torch.Generator().manual_seed(3)
    return nn.functional.normalize(
        torch.randn(count, size, dtype=torch.float64, generator=generator)
    )


def run(model, images, seed, *, start=0, dtype=torch.float64):
    return transformer_attribution(
        model.network,
        images,
        seed,
        readout=model.layout.readout,
        start_block=start,
        dtype=dtype,
    )


def without_identity(row, readout):
    """The oracle's row of a product, less the readout's own."""
    own = torch.zeros_like(row)
    own[list(readout)] = 1 / len(readout)
    return row - own


def distance(found, expected):
    """Largest difference in units of the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_class_rows_are_the_slow_oracles(kind, start):
    model = build(kind)
    images = pixels(model, 3).double()
    found = run(model, images, ClassSeed(CLASSES), start=start)
    for picture in range(3):
        row, sums = oracle.explain(
            model.network, images[picture], start, target=int(CLASSES[picture])
        )
        expected = without_identity(row, model.layout.readout)
        assert distance(found.row[picture], expected) < 1e-10
        drift = max(abs(total - 1) for total in sums[start:])
        assert float(found.drift[picture]) == pytest.approx(drift, abs=1e-12)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_similarity_rows_are_the_slow_oracles(kind, projected):
    model = build(kind)
    images = pixels(model, 2).double()
    projection = model.projection if projected else None
    size = model.embedding_size if projected else model.network.num_features
    directions = unit_directions(2, size)
    found = run(model, images, SimilaritySeed(directions, projection))
    for picture in range(2):
        row, _ = oracle.explain(
            model.network, images[picture], 0, direction=directions[picture], projection=projection
        )
        expected = without_identity(row, model.layout.readout)
        assert distance(found.row[picture], expected) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_conserved(kind):
    model = build(kind)
    images = pixels(model, 3).double()
    for seed in (
        ClassSeed(CLASSES),
        SimilaritySeed(unit_directions(3, model.embedding_size), model.projection),
    ):
        assert float(run(model, images, seed).drift.max()) < 1e-6
        assert float(run(model, images, seed, dtype=torch.float32).drift.max()) < 1e-5


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        # All of DeiT-Ti, and two blocks of ViT-B, over 17 and 5 tokens.
        ("deit_tiny_patch16_224", {"img_size": 64}),
        ("vit_base_patch16_224", {"img_size": 32, "depth": 2}),
    ],
)
def test_real_widths(architecture, options):
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=10, **options)
    network.eval().requires_grad_(False).double()
    images = torch.randn(2, 3, options["img_size"], options["img_size"], dtype=torch.float64)
    found = transformer_attribution(
        network,
        images,
        ClassSeed(torch.tensor([7, 2])),
        readout=(0,),
        start_block=0,
        dtype=torch.float64,
    )
    row, _ = oracle.explain(network, images[1], 0, target=2)
    assert distance(found.row[1], without_identity(row, (0,))) < 1e-10


@pytest.mark.parametrize("kind", ["class token", "distilled", "mean"])
def test_a_batch_with_other_targets_does_not_matter(kind):
    model = build(kind)
    images = pixels(model, 3).double()
    directions = unit_directions(3, model.embedding_size)
    # Products of batches of different size round differently, and the rules amplify that.
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        together = run(model, images, ClassSeed(CLASSES), dtype=dtype)
        similar = run(model, images, SimilaritySeed(directions, model.projection), dtype=dtype)
        for picture in range(3):
            one = slice(picture, picture + 1)
            alone = run(model, images[one], ClassSeed(CLASSES[one]), dtype=dtype)
            assert distance(together.row[one], alone.row.double()) < tolerance
            seed = SimilaritySeed(directions[one], model.projection)
            alone = run(model, images[one], seed, dtype=dtype)
            assert distance(similar.row[one], alone.row.double()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_not_one_bit_comes_from_neighbours(kind):
    model = build(kind)
    images = pixels(model, 3).double()
    others = torch.stack([10 * images[2], images[1], -images[0]])
    found = run(model, images, ClassSeed(CLASSES))
    beside = run(model, others, ClassSeed(torch.tensor([4, 0, 2])))
    assert torch.equal(found.row[1], beside.row[1])
    assert torch.equal(found.drift[1], beside.drift[1])
    assert distance(beside.row[0], found.row[0]) > 1e-3


def test_minus_one_is_the_class_with_the_largest_logit():
    for kind in ("class token", "distilled"):
        model = build(kind)
        model.network.head.bias[2] += 100
        images = pixels(model, 3).double()
        assert model.network(images).argmax(1).tolist() == [2, 2, 2]
        found = run(model, images, ClassSeed(torch.tensor([-1, 0, -1])))
        assert torch.equal(found.row, run(model, images, ClassSeed(torch.tensor([2, 0, 2]))).row)


def test_rows_are_nonnegative_and_reach_every_patch():
    model = build("class token")
    row = run(model, pixels(model, 3), ClassSeed(CLASSES)).row
    assert float(row.min()) >= 0
    assert float(row[:, model.layout.prefix :].amin()) > 0


def test_under_mean_pooling_float32_keeps_what_the_identity_would_swallow():
    model = build("mean")
    model.network.head.weight.mul_(1e-6)  # so small a gradient that 1/R + relevance is 1/R
    images = pixels(model, 2).double()
    exact = run(model, images, ClassSeed(CLASSES[:2])).row
    single = run(model, images, ClassSeed(CLASSES[:2]), dtype=torch.float32).row
    assert float(exact.max()) * 24 < 1e-6
    assert distance(single, exact) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_arithmetic_is_in_the_dtype_asked_for(dtype):
    model = vit(pooling="token", dtype=dtype, qk_norm=True, init_values=0.3, pre_norm=True)
    images = pixels(model, 2)
    found = run(model, images, ClassSeed(CLASSES[:2]))
    assert found.row.dtype == found.drift.dtype == torch.float64
    widened = copy.deepcopy(model.network).double()
    row, _ = oracle.explain(widened, images[0].double(), 0, target=3)
    assert distance(found.row[0], without_identity(row, (0,))) < 1e-10
    single = run(model, images, ClassSeed(CLASSES[:2]), dtype=torch.float32).row
    assert single.dtype == torch.float32
    assert distance(single[0], found.row[0]) < 1e-2


def test_the_network_stays_as_it_is():
    model = vit(pooling="token", dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    run(model, pixels(model), ClassSeed(CLASSES[:2]))
    for name, value in model.network.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name])
    for parameter in model.network.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_a_caller_without_gradients_is_served():
    model = build("class token")
    images = pixels(model).double()
    with torch.no_grad():
        found = run(model, images, ClassSeed(CLASSES[:2]))
    assert_close(found.row, run(model, images, ClassSeed(CLASSES[:2])).row, rtol=0, atol=0)
    assert not found.row.requires_grad
