"""Plain vision transformers in the variants that timm's constructor offers."""

import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock

from pairlens_server.methods.cam_weights import grad_cam
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    FusedAttention,
    Logits,
    PooledParts,
    ReadoutAttention,
)
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit
from tests.oracles import explicit_run
from tests.support import pixels, recorded, vit

KINDS = {
    "mean": {},
    "mean, norm after pooling": {"fc_norm": True},
    "mean, norm before pooling": {"fc_norm": False},
    "mean with class token": {"class_token": True},
    "mean over prefix too": {"class_token": True, "pool_include_prefix": True},
    "class token": {"pooling": "token"},
    "registers": {"pooling": "token", "reg_tokens": 4},
    "distilled": {"pooling": "token", "architecture": "deit_tiny_distilled_patch16_224"},
    "query-key norm": {"qk_norm": True},
    "residual post-norm": {"block_fn": ResPostBlock},
}
LAYER = "blocks.2.norm1"


def build(kind, **options):
    return vit(**{**KINDS[kind], **options})


@pytest.mark.parametrize("kind", KINDS)
def test_attention_beside_the_fused_pass_is_timms_own(kind):
    model = build(kind)
    images = pixels(model)
    wanted = [kind(block) for block in range(3) for kind in (FusedAttention, ReadoutAttention)]
    found = recorded(Recorder(model), images, Logits(), *wanted)
    run = explicit_run(model, images)
    readout = list(model.layout.readout)
    for block, attention in enumerate(run.attentions):
        heads = attention.detach()
        for activation, expected in (
            (FusedAttention(block), heads.mean(1)),
            (ReadoutAttention(block), heads[:, :, readout].mean(2)),
        ):
            torch.testing.assert_close(found[activation].double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[Logits()].double(), run.logits.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_is_the_models_own(kind):
    model = build(kind)
    images = pixels(model)
    found = recorded(Recorder(model), images, Embedding())[Embedding()]
    with torch.no_grad():
        pooled = model.network.forward_head(model.network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(found, model.projection(pooled))


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].get("pooling") != "token"])
def test_parts_and_constant_sum_to_the_embedding(kind, projection):
    model = build(kind, projection=projection)
    recorder = Recorder(model)
    facts = recorder.facts
    assert facts.refusals.parts == ""
    found = recorded(recorder, pixels(model), PooledParts(), Embedding())
    split = found[PooledParts()]
    assert split.shape[1] == model.layout.tokens
    total = split.sum(1) + facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=1e-5, rtol=1e-5)
    unpooled = [t for t in range(model.layout.tokens) if t not in facts.pooled]
    assert not split[:, unpooled].any()


@pytest.mark.parametrize("kind", ["class token", "registers", "distilled"])
def test_class_token_pooling_is_refused_for_pairs_with_a_hint(kind):
    refusal = Recorder(build(kind)).facts.refusals.parts
    assert "class token" in refusal
    assert "affinity" in refusal


def test_max_pooling_over_tokens_splits_over_its_winners():
    model = vit(pooling="max", fc_norm=False)
    images = pixels(model)
    recorder = Recorder(model)
    found = recorded(recorder, images, PooledParts(), Embedding())
    with torch.no_grad():
        tokens = model.network.forward_features(images)
        expected = model.projection(tokens.amax(1))
    torch.testing.assert_close(found[Embedding()], expected, atol=1e-5, rtol=1e-5)
    total = found[PooledParts()].sum(1) + recorder.facts.embedding_constant
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)
    winners = torch.nn.functional.one_hot(tokens.argmax(1), 24).mT * tokens
    split = winners @ model.projection.weight.T
    torch.testing.assert_close(found[PooledParts()], split, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"block_fn": ParallelScalingBlock}, {"attn_layer": "diff"}])
def test_blocks_without_plain_attention_are_refused(options):
    refusals = Recorder(vit(**options)).facts.refusals
    name = "ParallelScalingBlock" if "block_fn" in options else "DiffAttention"
    for reason in (refusals.readout, refusals.matrix, refusals.relevance, refusals.layer_scores):
        assert name in reason


def test_a_headless_model_has_no_logits():
    assert "no class head" in Recorder(vit(classes=0)).facts.refusals.classes


@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_attention_of_a_readout_that_is_no_token_is_refused(pooling):
    assert f"under {pooling} pooling" in Recorder(vit(pooling=pooling)).facts.refusals.readout


def test_pooling_that_does_not_split_is_refused_for_pairs():
    assert "avgmax pooling has no decomposition" in (
        Recorder(vit(pooling="avgmax")).facts.refusals.parts
    )


@pytest.mark.parametrize("kind", ["mean", "class token", "registers", "distilled"])
def test_gradient_agrees_with_autograd_through_the_whole_model(kind):
    model = build(kind)
    images = pixels(model)
    gradient = FeatureGradient(LAYER, ClassLogit(3))
    found = recorded(Recorder(model), images, FeatureMap(LAYER), gradient)
    run = explicit_run(model, images, [LAYER])
    (slopes,) = torch.autograd.grad(run.logits[:, 3].sum(), run.outputs[LAYER])
    layout = model.layout

    def grid(tokens):
        patches = tokens.detach()[:, layout.prefix :].mT
        return patches.reshape(2, -1, layout.rows, layout.columns).float()

    torch.testing.assert_close(found[FeatureMap(LAYER)], grid(run.outputs[LAYER]))
    torch.testing.assert_close(found[gradient], grid(slopes), atol=1e-6, rtol=1e-4)


def test_every_picture_gets_the_gradient_of_its_own_class():
    model = vit(pooling="token")
    images = pixels(model, 4)
    recorder = Recorder(model)
    predicted = recorded(recorder, images, Logits())[Logits()].argmax(1)
    wanted = {0: [0, 2], 4: [1, 2], None: [3]}
    mixed = recorder.record(
        images, {FeatureGradient(LAYER, ClassLogit(c)): p for c, p in wanted.items()}
    )
    for class_index, pictures in wanted.items():
        for row, picture in enumerate(pictures):
            index = int(predicted[picture]) if class_index is None else class_index
            one = FeatureGradient(LAYER, ClassLogit(index))
            alone = recorder.record(images[picture : picture + 1], {one: [0]})[one]
            torch.testing.assert_close(
                mixed[FeatureGradient(LAYER, ClassLogit(class_index))][row],
                alone[0],
                atol=1e-6,
                rtol=1e-4,
            )


@pytest.mark.parametrize("class_index", [0, 4])
@pytest.mark.parametrize(
    "kind",
    ["class token", "registers", "mean", "mean, norm before pooling", "mean with class token"],
)
def test_grad_cam_agrees_with_the_grad_cam_package(kind, class_index):
    model = build(kind)
    images = pixels(model)
    gradient = FeatureGradient(LAYER, ClassLogit(class_index))
    found = recorded(Recorder(model), images, FeatureMap(LAYER), gradient)
    ours = grad_cam(found[FeatureMap(LAYER)], found[gradient])
    layout = model.layout

    def to_grid(tokens):
        return tokens[:, layout.prefix :].mT.reshape(len(tokens), -1, layout.rows, layout.columns)

    for parameter in model.network.parameters():
        parameter.requires_grad_(True)
    with GradCAM(model.network, [model.network.blocks[-1].norm1], to_grid) as package:
        package(images, [ClassifierOutputTarget(class_index)] * 2)
        activations = package.activations_and_grads.activations[-1].numpy()
        gradients = package.activations_and_grads.gradients[-1].numpy()
        theirs = package.get_cam_image(
            images, package.target_layers[-1], None, activations, gradients
        )
    theirs = torch.from_numpy(theirs).relu()
    assert float(theirs.max()) > 0
    torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.max()), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mean, norm before pooling", "mean, norm after pooling"])
def test_parts_add_up_to_the_embedding_in_half_precision_too(kind, dtype):
    model = build(kind, dtype=dtype)
    recorder = Recorder(model)
    found = recorded(recorder, pixels(model), PooledParts(), Embedding())
    total = found[PooledParts()].sum(1) + recorder.facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=1e-6, rtol=1e-5)
