"""What the server tells about models: facts, methods, parameters and defaults."""

from dataclasses import replace

import pytest

from pairlens.v1 import methods_pb2, model_service_pb2
from pairlens_server.images.admission import ImageLimits
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS
from pairlens_server.recording.recorder import Recorder
from pairlens_server.rpc.model_info import limits_message, model_info
from pairlens_server.service.limits import ServiceLimits
from tests.support import resnet, vit, zoo_model, zoo_recorder
from tests.zoo import zoo

EXPLANATIONS = [method.name for method in EXPLANATION_METHODS]
PAIRS = [method.name for method in PAIR_METHODS]
TAKE_NO_TARGET = {
    *("raw_attention", "raw_scores", "raw_log", "raw_power", "key_norm"),
    *("scores_times_key_norm", "rollout", "hidden_unit", "semantic_attention", "attention_mask"),
}
TAKE_A_SIMILARITY_ALONE = {"pooled_decomposition", "affinity"}


def info(model) -> model_service_pb2.ModelInfo:
    return model_info(model, Recorder(model).facts)


def zoo_info(name) -> model_service_pb2.ModelInfo:
    return model_info(zoo_model(name), zoo_recorder(name).facts)


def methods(described, kind="EXPLANATION") -> dict[str, model_service_pb2.MethodInfo]:
    number = model_service_pb2.MethodKind.Value(f"METHOD_KIND_{kind}")
    return {method.name: method for method in described.methods if method.kind == number}


def test_facts_of_a_vit():
    model = vit()
    described = info(model)
    assert described.name == model.name
    assert (described.architecture, described.family) == ("vit_tiny_patch16_224", "vit")
    assert (described.input_height, described.input_width) == (32, 48)
    assert (described.grid_rows, described.grid_columns) == (4, 6)
    assert (described.blocks, described.heads, described.prefix_tokens) == (3, 2, 0)
    assert (described.embedding_size, described.projection) == (6, True)
    assert (described.pooling, described.classes, list(described.labels)) == ("avg", 5, [])
    assert (described.device, described.dtype) == ("cpu", "float32")
    assert described.fingerprint == model.fingerprint
    preprocessing = described.preprocessing
    assert (preprocessing.resize_mode, preprocessing.interpolation) == ("stretch", "bilinear")
    assert preprocessing.mean == pytest.approx(model.preprocessing.mean)
    assert preprocessing.std == pytest.approx(model.preprocessing.std)
    assert preprocessing.digest == model.preprocessing.digest


def test_what_the_maps_are_made_of():
    described = info(vit())
    assert described.cam_layer == "blocks.2.norm1"
    assert described.hidden_units == 64
    cnn = info(resnet())
    assert cnn.cam_layer == "layer4.0"
    assert cnn.hidden_units == 0
    assert (cnn.blocks, cnn.heads, cnn.prefix_tokens) == (0, 0, 0)


def test_all_methods_are_listed_in_order_with_their_kind():
    for model in (vit(), resnet(), vit(pooling="token"), vit(classes=0)):
        described = info(model)
        assert [method.name for method in described.methods] == EXPLANATIONS + PAIRS
        assert list(methods(described)) == EXPLANATIONS
        assert list(methods(described, "PAIR")) == PAIRS
        for method in described.methods:
            assert method.summary
            assert method.revision
            assert method.source


def test_kinds_of_target():
    explanations = methods(info(vit()))
    for name, method in explanations.items():
        assert method.takes_class == (name not in TAKE_NO_TARGET | TAKE_A_SIMILARITY_ALONE), name
        assert method.takes_similarity == (name not in TAKE_NO_TARGET), name
    assert set(explanations) > TAKE_NO_TARGET | TAKE_A_SIMILARITY_ALONE


def test_defaults_are_resolved_for_the_model():
    explanations = methods(info(vit()))
    rollout = explanations["rollout"].explanation.rollout
    assert (rollout.start_block, rollout.end_block) == (0, 2)
    assert rollout.HasField("start_block")
    assert explanations["grad_cam"].explanation.grad_cam.layer == "blocks.2.norm1"
    assert explanations["attention_mask"].explanation.attention_mask.blocks == [2]
    pair = methods(info(vit()), "PAIR")["pooled_decomposition"].pair.pooled_decomposition
    assert pair.redistribution == methods_pb2.REDISTRIBUTION_NONE
    assert pair.bias_mode == methods_pb2.BIAS_MODE_SEPARATE
    cnn = methods(info(resnet()), "PAIR")["pooled_decomposition"].pair.pooled_decomposition
    assert cnn.redistribution == methods_pb2.REDISTRIBUTION_NONE


def test_what_can_be_given_has_defaults_and_a_price():
    described = info(vit())
    for method in described.methods:
        assert not method.refusal
        if method.name == "correspondence":  # a region has no default
            assert method.WhichOneof("defaults") is None
        else:
            kind = "pair" if method.kind == model_service_pb2.METHOD_KIND_PAIR else "explanation"
            assert method.WhichOneof("defaults") == kind
        assert method.forward_passes >= 1


@pytest.mark.parametrize(
    ("name", "passes"),
    [("raw_attention", 1), ("occlusion", 1 + 24), ("integrated_gradients", 98), ("score_cam", 17)],
)
def test_forward_passes_follow_the_model(name, passes):
    assert methods(info(vit()))[name].forward_passes == passes


def test_what_to_know_before_using_a_method():
    explanations = methods(info(vit()))
    assert "patent" in explanations["transformer_attribution"].caution
    assert "reconstructed" in explanations["semantic_attention"].caution
    assert explanations["raw_attention"].caution == ""
    assert "Abnar" in explanations["rollout"].source


def test_parameters_with_ranges_and_choices():
    described = methods(info(vit()))
    block, head, each = described["raw_attention"].parameters
    assert (block.name, block.type, block.default_value) == ("block", "int", "2")
    assert (block.minimum, block.maximum) == (0, 2)
    assert (head.default_value, head.maximum) == ("", 1)
    assert list(each.choices) == ["none", "head", "block", "block_and_head"]
    assert not each.HasField("minimum")
    profile = described["rollout"].parameters[2]
    assert (profile.type, list(profile.choices)) == ("enum", ["strict", "reference", "paper"])
    premap = described["scores_times_key_norm"].parameters[3]
    assert (premap.type, premap.default_value) == ("bool", "false")
    layer = described["x_grad_cam"].parameters[0]
    assert (layer.type, layer.default_value) == ("string", "blocks.2.norm1")
    blocks = described["attention_mask"].parameters[1]
    assert (blocks.type, blocks.default_value, blocks.maximum) == ("ints", "2", 2)
    region = methods(info(vit()), "PAIR")["correspondence"].parameters[0]
    assert (region.type, region.default_value) == ("box", "")


@pytest.mark.parametrize(
    ("method", "name", "minimum", "maximum", "words"),
    [
        ("raw_power", "power", 0, 1, "more than 0"),
        ("rollout", "discard_ratio", 0, 1, "less than 1"),
        ("attention_mask", "ratio", 0, 1, "more than 0 and less than 1"),
        ("attention_mask", "hint_ratio", 0, 1, ""),
        ("semantic_attention", "line", 0, 10, ""),
    ],
)
def test_bounds_that_may_not_be_reached_are_told_in_words(method, name, minimum, maximum, words):
    parameters = methods(info(vit()))[method].parameters
    (parameter,) = [p for p in parameters if p.name == name]
    assert (parameter.minimum, parameter.maximum) == (minimum, maximum)
    assert words in parameter.description
    assert ("than" in parameter.description) == bool(words)


@pytest.mark.parametrize("name", zoo())
def test_parameters_are_the_fields_of_the_contract(name):
    for method in zoo_info(name).methods:
        container = methods_pb2.ExplanationMethod
        if method.kind == model_service_pb2.METHOD_KIND_PAIR:
            container = methods_pb2.PairMethod
        names = [field.name for field in getattr(container(), method.name).DESCRIPTOR.fields]
        # In the order in which they are read; later ones have the later field numbers.
        assert sorted(p.name for p in method.parameters) == sorted([] if method.refusal else names)
        assert all(p.description for p in method.parameters)


@pytest.mark.parametrize("name", zoo())
def test_what_is_listed_as_default_is_what_the_defaults_hold(name):
    """Every default value as text is the one that the resolved method holds."""
    for method in zoo_info(name).methods:
        which = method.WhichOneof("defaults")
        if which is None:
            continue
        chosen = getattr(getattr(method, which), method.name)
        for parameter in method.parameters:
            value = getattr(chosen, parameter.name)
            text = parameter.default_value
            if not text or parameter.type == "enum":
                continue
            field = chosen.DESCRIPTOR.fields_by_name[parameter.name]
            if field.has_presence and not chosen.HasField(parameter.name):
                # Of another kind of mask than the default one.
                assert method.name == "attention_mask"
            elif parameter.type == "ints":
                assert text == ",".join(map(str, value))
            elif parameter.type == "float":
                assert float(text) == pytest.approx(value)
            else:
                assert text == (str(value).lower() if parameter.type == "bool" else str(value))


def test_a_refused_method_says_why_and_offers_nothing():
    described = info(vit(pooling="token"))
    for kind in ("EXPLANATION", "PAIR"):
        refused = methods(described, kind)["pooled_decomposition"]
        assert "class token" in refused.refusal
        assert not refused.parameters
        assert not refused.forward_passes
        assert refused.WhichOneof("defaults") is None
        assert refused.summary
    for name in ("rollout", "raw_attention"):
        assert methods(info(resnet()))[name].refusal


@pytest.mark.parametrize(
    ("name", "explanation", "similarity", "pair"),
    [
        ("vit", "full_grad", "attention_relevance", "attention_relevance"),
        ("vit-avg", "full_grad", "attention_relevance", "pooled_decomposition"),
        ("deit-distilled", "full_grad", "attention_relevance", "attention_relevance"),
        ("dino", "rollout", "attention_relevance", "attention_relevance"),
        ("dinov2-registers", "rollout", "attention_relevance", "attention_relevance"),
        ("resnet", "grad_cam", "pooled_decomposition", "pooled_decomposition"),
        ("resnet-max", "grad_cam", "pooled_decomposition", "pooled_decomposition"),
        ("convnext", "grad_cam", "pooled_decomposition", "pooled_decomposition"),
        ("swin", "grad_cam", "pooled_decomposition", "pooled_decomposition"),
    ],
)
def test_defaults(name, explanation, similarity, pair):
    described = zoo_info(name)
    assert described.default_explanation_method.WhichOneof("method") == explanation
    assert described.default_similarity_method.WhichOneof("method") == similarity
    assert described.default_pair_method.WhichOneof("method") == pair
    (listed,) = [m for n, m in methods(described).items() if n == explanation]
    assert described.default_explanation_method == listed.explanation
    listed = methods(described, "PAIR")[pair]
    assert described.default_pair_method == listed.pair


@pytest.mark.parametrize("name", zoo())
def test_a_default_takes_what_it_is_the_default_for(name):
    described = zoo_info(name)
    by_name = methods(described)
    default = by_name[described.default_explanation_method.WhichOneof("method")]
    assert default.takes_class == bool(described.classes) or not default.takes_similarity
    assert by_name[described.default_similarity_method.WhichOneof("method")].takes_similarity
    for field in ("explanation", "similarity", "pair"):
        chosen = getattr(described, f"default_{field}_method").WhichOneof("method")
        assert chosen != "transformer_attribution", "a patent is claimed; never a default"
        assert not by_name[chosen].refusal


def test_the_twin_with_random_weights_is_named():
    model = vit()
    assert info(model).random_twin == ""
    assert info(replace(model, random_twin="untrained")).random_twin == "untrained"


def test_limits():
    limits = ServiceLimits(ImageLimits(10, 20, ("PNG",)), 3, 40, 50, 60, 7, 80, 90)
    found = limits_message(
        limits,
        70,
        max_queued_cost=100,
        keeps_images=True,
        max_concurrent_streams=110,
        max_bytes_under_way=120,
    )
    assert found == model_service_pb2.Limits(
        max_request_bytes=70,
        max_image_bytes=10,
        max_image_pixels=20,
        max_candidates=3,
        max_rendered_pixels=40,
        max_match_values=50,
        max_target_embeddings=60,
        max_metrics=7,
        max_copies=80,
        max_digests=90,
        max_queued_cost=100,
        keeps_images=True,
        max_concurrent_streams=110,
        max_bytes_under_way=120,
        image_formats=["PNG"],
    )
