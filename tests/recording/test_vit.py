import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from pairlens_server.methods.cam import grad_cam
from pairlens_server.recording.activations import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    Logits,
    MeanAttention,
    PooledParts,
    ReadoutAttention,
)
from pairlens_server.recording.vit import ViTRecorder
from tests.support import pixels, vit

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
    "residual post-norm": {"block_fn": "ResPostBlock"},
}


def build(kind, **options):
    from timm.models.vision_transformer import ResPostBlock

    settings = {**KINDS[kind], **options}
    if settings.get("block_fn") == "ResPostBlock":
        settings["block_fn"] = ResPostBlock
    return vit(**settings)


def unfused_attention(model, images):
    """Attention of every block as timm itself computes it: a list of [B, heads, T, T]."""
    seen, handles = [], []
    for block in model.network.blocks:
        block.attn.fused_attn = False
        handles.append(
            block.attn.attn_drop.register_forward_hook(lambda _m, i, _o: seen.append(i[0]))
        )
    with torch.no_grad():
        logits = model.network(images)
    for block, handle in zip(model.network.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    return seen, logits


@pytest.mark.parametrize("kind", KINDS)
def test_attention_beside_the_fused_pass_is_timms_own(kind):
    model = build(kind)
    images = pixels(model)
    recorder = ViTRecorder(model)
    wanted = {MeanAttention(b): [0, 1] for b in range(3)}
    wanted |= {ReadoutAttention(b): [0, 1] for b in range(3)}
    wanted[Logits()] = [0, 1]
    found = recorder.record(images, wanted)
    reference, logits = unfused_attention(model, images)
    readout = list(model.layout.readout)
    for block, attention in enumerate(reference):
        torch.testing.assert_close(
            found[MeanAttention(block)], attention.mean(1), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            found[ReadoutAttention(block)],
            attention[:, :, readout].mean(2),
            atol=1e-5,
            rtol=0,
        )
    torch.testing.assert_close(found[Logits()], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_is_the_models_own(kind):
    model = build(kind)
    images = pixels(model)
    found = ViTRecorder(model).record(images, {Embedding(): [0, 1]})
    with torch.no_grad():
        pooled = model.network.forward_head(model.network.forward_features(images), pre_logits=True)
        expected = model.projection(pooled)
    torch.testing.assert_close(found[Embedding()], expected)


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].get("pooling") != "token"])
def test_parts_and_constant_sum_to_the_embedding(kind, projection):
    model = build(kind, projection=projection)
    recorder = ViTRecorder(model)
    assert recorder.facts.parts_refusal == ""
    found = recorder.record(pixels(model), {PooledParts(): [0, 1], Embedding(): [0, 1]})
    split = found[PooledParts()]
    assert split.shape[1] == model.layout.tokens
    total = split.sum(1) + recorder.facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=1e-5, rtol=1e-5)
    unpooled = [t for t in range(model.layout.tokens) if t not in recorder.facts.pooled]
    assert not split[:, unpooled].any()


@pytest.mark.parametrize("kind", ["class token", "registers", "distilled"])
def test_class_token_pooling_is_refused_for_pairs_with_a_hint(kind):
    refusal = ViTRecorder(build(kind)).facts.parts_refusal
    assert "class token" in refusal
    assert "pooling: avg" in refusal


def test_max_pooling_over_tokens_is_refused_for_pairs():
    assert "max pooling" in ViTRecorder(vit(pooling="max")).facts.parts_refusal


def test_blocks_without_plain_attention_are_refused():
    from timm.models.vision_transformer import ParallelScalingBlock

    facts = ViTRecorder(vit(block_fn=ParallelScalingBlock)).facts
    assert "ParallelScalingBlock" in facts.attention_refusal


def test_a_headless_model_has_no_gradient():
    assert "no class head" in ViTRecorder(vit(classes=0)).facts.gradient_refusal


@pytest.mark.parametrize("kind", ["mean", "class token", "registers", "distilled"])
def test_gradient_agrees_with_autograd_through_the_whole_model(kind):
    model = build(kind)
    images = pixels(model)
    gradient = FeatureGradient(3)
    found = ViTRecorder(model).record(images, {FeatureMap(): [0, 1], gradient: [0, 1]})
    features = []

    def keep(_module, _inputs, output):
        features.append(output.requires_grad_(True) if output.is_leaf else output)
        return features[0]

    handle = model.network.blocks[-1].norm1.register_forward_hook(keep)
    logits = model.network(images.requires_grad_(True))
    handle.remove()
    (slopes,) = torch.autograd.grad(logits[:, 3].sum(), features[0])
    layout = model.layout

    def grid(tokens):
        patches = tokens[:, layout.prefix :].mT
        return patches.reshape(2, -1, layout.rows, layout.columns)

    torch.testing.assert_close(found[FeatureMap()], grid(features[0]).detach())
    torch.testing.assert_close(found[gradient], grid(slopes), atol=1e-6, rtol=1e-4)


def test_every_picture_gets_the_gradient_of_its_own_class():
    model = vit(pooling="token")
    images = pixels(model, 4)
    recorder = ViTRecorder(model)
    predicted = recorder.record(images, {Logits(): [0, 1, 2, 3]})[Logits()].argmax(1)
    mixed = recorder.record(
        images,
        {FeatureGradient(0): [0, 2], FeatureGradient(4): [1, 2], FeatureGradient(None): [3]},
    )
    for class_index, pictures in ((0, [0, 2]), (4, [1, 2]), (None, [3])):
        for row, picture in enumerate(pictures):
            index = int(predicted[picture]) if class_index is None else class_index
            alone = recorder.record(images[picture : picture + 1], {FeatureGradient(index): [0]})[
                FeatureGradient(index)
            ]
            torch.testing.assert_close(
                mixed[FeatureGradient(class_index)][row], alone[0], atol=1e-6, rtol=1e-4
            )


@pytest.mark.parametrize("class_index", [0, 4])
@pytest.mark.parametrize(
    "kind",
    ["class token", "registers", "mean", "mean, norm before pooling", "mean with class token"],
)
def test_grad_cam_agrees_with_the_grad_cam_package(kind, class_index):
    model = build(kind)
    images = pixels(model)
    gradient = FeatureGradient(class_index)
    found = ViTRecorder(model).record(images, {FeatureMap(): [0, 1], gradient: [0, 1]})
    ours = grad_cam(found[FeatureMap()], found[gradient])
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


def test_only_the_pictures_that_want_an_activation_get_it():
    model = vit()
    images = pixels(model, 3)
    recorder = ViTRecorder(model)
    whole = recorder.record(images, {MeanAttention(1): [0, 1, 2], PooledParts(): [0, 1, 2]})
    some = recorder.record(images, {MeanAttention(1): [2], PooledParts(): [0, 2]})
    torch.testing.assert_close(some[MeanAttention(1)], whole[MeanAttention(1)][[2]])
    torch.testing.assert_close(some[PooledParts()], whole[PooledParts()][[0, 2]])


def test_no_hook_and_no_gradient_stays_behind():
    model = vit(pooling="token")
    recorder = ViTRecorder(model)
    for _ in range(3):
        recorder.record(
            pixels(model), {MeanAttention(0): [0], FeatureMap(): [0], FeatureGradient(1): [1]}
        )
    for module in model.network.modules():
        assert not module._forward_hooks
    assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())


def test_a_failing_pass_leaves_no_hook():
    model = vit()
    with pytest.raises(AssertionError):
        ViTRecorder(model).record(torch.zeros(1, 3, 8, 8), {MeanAttention(0): [0]})
    for module in model.network.modules():
        assert not module._forward_hooks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mean, norm before pooling", "mean, norm after pooling"])
def test_parts_add_up_to_the_embedding_in_half_precision_too(kind, dtype):
    model = build(kind, dtype=dtype)
    recorder = ViTRecorder(model)
    found = recorder.record(pixels(model), {PooledParts(): [0, 1], Embedding(): [0, 1]})
    total = found[PooledParts()].sum(1) + recorder.facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_attention_of_a_readout_that_is_no_token_is_refused(pooling):
    assert f"under {pooling} pooling" in ViTRecorder(vit(pooling=pooling)).facts.attention_refusal


def test_bfloat16_activations_come_back_in_float32_and_close():
    exact = vit()
    half = vit(dtype=torch.bfloat16)
    wanted = {MeanAttention(0): [0, 1], Embedding(): [0, 1], PooledParts(): [0, 1]}
    reference = ViTRecorder(exact).record(pixels(exact), wanted)
    found = ViTRecorder(half).record(pixels(half), wanted)
    for activation, tensor in found.items():
        assert tensor.dtype == torch.float32
        error = (tensor - reference[activation]).norm() / reference[activation].norm()
        assert float(error) < 0.1
