import pytest

from pairlens.v1 import model_service_pb2
from pairlens_server.images.admission import ImageLimits
from pairlens_server.recording.recorder import recorder_for
from pairlens_server.rpc.model_info import limits_message, model_info
from pairlens_server.service.limits import ServiceLimits
from tests.support import resnet, vit

NAMES = ["rollout", "raw_attention", "grad_cam", "pooled_decomposition"]


def info(model) -> model_service_pb2.ModelInfo:
    return model_info(model, recorder_for(model).facts)


def methods(described) -> dict[str, model_service_pb2.MethodInfo]:
    return {method.name: method for method in described.methods}


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


def test_all_methods_are_listed_in_order_with_their_kind():
    for model in (vit(), resnet(), vit(pooling="token")):
        described = info(model)
        assert [method.name for method in described.methods] == NAMES
        kinds = [method.kind for method in described.methods]
        explanation, pair = (
            model_service_pb2.METHOD_KIND_EXPLANATION,
            model_service_pb2.METHOD_KIND_PAIR,
        )
        assert kinds == [explanation] * 3 + [pair]
        assert all(method.summary and method.revision for method in described.methods)
        assert [method.takes_target for method in described.methods] == [False, False, True, False]


def test_defaults_are_resolved_for_the_model():
    described = info(vit())
    rollout = methods(described)["rollout"]
    assert (rollout.explanation.rollout.start_block, rollout.explanation.rollout.end_block) == (
        0,
        2,
    )
    assert described.default_explanation_method == rollout.explanation
    pair = methods(described)["pooled_decomposition"]
    assert pair.pair.pooled_decomposition.redistribution
    assert pair.pair.pooled_decomposition.bias_mode
    assert described.default_pair_method == pair.pair


def test_parameters_with_ranges_and_choices():
    described = methods(info(vit()))
    block, head = described["raw_attention"].parameters
    assert (block.name, block.type, block.default_value) == ("block", "int", "2")
    assert (block.minimum, block.maximum) == (0, 2)
    assert (head.default_value, head.maximum) == ("", 1)
    profile = described["rollout"].parameters[2]
    assert (profile.type, list(profile.choices)) == ("enum", ["strict", "reference", "paper"])
    assert not profile.HasField("minimum")
    assert described["pooled_decomposition"].parameters[3].type == "bool"


def test_parameters_are_the_fields_of_the_contract():
    for method in info(vit()).methods:
        chosen = getattr(method, method.WhichOneof("defaults"))
        message = getattr(chosen, method.name)
        assert [p.name for p in method.parameters] == [f.name for f in message.DESCRIPTOR.fields]


def test_a_refused_method_says_why_and_offers_nothing():
    described = info(vit(pooling="token"))
    refused = methods(described)["pooled_decomposition"]
    assert refused.refusal
    assert not refused.parameters
    assert refused.WhichOneof("defaults") is None
    assert not described.HasField("default_pair_method")
    for name in ("rollout", "raw_attention"):
        assert methods(info(resnet()))[name].refusal


def test_a_cnn_has_grad_cam_by_default():
    described = info(resnet())
    assert described.default_explanation_method.WhichOneof("method") == "grad_cam"
    assert (described.blocks, described.heads) == (0, 0)


def test_limits():
    limits = ServiceLimits(ImageLimits(10, 20, ("PNG",)), 3, 40, 50)
    assert limits_message(limits, 50) == model_service_pb2.Limits(
        max_request_bytes=50,
        max_image_bytes=10,
        max_image_pixels=20,
        max_candidates=3,
        max_rendered_pixels=40,
        max_match_values=50,
        image_formats=["PNG"],
    )
