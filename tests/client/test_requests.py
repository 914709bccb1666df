import numpy as np
import pytest

from pairlens import EncodedImage, Rendering
from pairlens._requests import explain_request, pair_request
from pairlens.errors import InvalidParameterError
from pairlens.rendering import ColorScale
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from tests.client.scripted import png

IMAGE = EncodedImage(png(), "cat.png")


def request(**changes: object) -> explanation_service_pb2.ExplainRequest:
    arguments: dict[str, object] = {
        "model": "vit",
        "method": None,
        "parameters": {},
        "target": None,
        "render": None,
    }
    return explain_request(IMAGE, **(arguments | changes))


def test_a_plain_request_leaves_everything_to_the_server():
    made = request()
    assert (made.model, made.image.inline) == ("vit", IMAGE.data)
    assert not made.HasField("method")
    assert not made.HasField("target")
    assert not made.HasField("rendering")


def test_method_with_parameters():
    made = request(method="rollout", parameters={"end_block": np.int64(3), "profile": "paper"})
    expected = methods_pb2.Rollout(end_block=3, profile=common_pb2.PROFILE_PAPER)
    assert made.method.rollout == expected
    assert not made.method.rollout.HasField("start_block")


def test_method_without_parameters_is_named():
    assert request(method="grad_cam").method.WhichOneof("method") == "grad_cam"


def test_pair_parameters():
    made = pair_request(
        IMAGE,
        [IMAGE],
        model="cnn",
        method="pooled_decomposition",
        parameters={"redistribution": "none", "bias_mode": "in_tokens", "match_matrix": True},
        render=None,
    )
    assert made.method.pooled_decomposition == methods_pb2.PooledDecomposition(
        redistribution=methods_pb2.REDISTRIBUTION_NONE,
        bias_mode=methods_pb2.BIAS_MODE_IN_TOKENS,
        match_matrix=True,
    )


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("grad", {}, r"unknown method 'grad'; the methods are raw_attention, rollout, grad_cam"),
        ("rollout", {"block": 1}, r"unknown parameter 'block'; rollout takes start_block, end_b"),
        ("rollout", {"block": 1}, "raw_attention, raw_scores, .*, semantic_attention$"),
        ("affinity", {"x": 1}, "affinity takes no parameters$"),
        ("raw_attention", {"block": -1}, "block is an integer from 0"),
        ("raw_attention", {"block": 2**32}, "block is an integer from 0"),
        ("raw_attention", {"block": 1.0}, "block is an integer from 0"),
        ("raw_attention", {"block": True}, "block is an integer from 0"),
        ("raw_attention", {"block": "1"}, "block is an integer from 0"),
        ("rollout", {"profile": "unspecified"}, "one of strict, reference, paper; not 'unspeci"),
        ("rollout", {"profile": 1}, "one of strict, reference, paper; not 1"),
    ],
)
def test_bad_methods(method: str, parameters: dict[str, object], message: str):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        request(method=method, parameters=parameters)
    assert caught.value.field.startswith("method")
    assert caught.value.code == "INVALID_ARGUMENT"


def test_a_bool_parameter_is_no_number():
    arguments = {"model": "m", "method": "pooled_decomposition", "render": None}
    with pytest.raises(InvalidParameterError, match="match_matrix is True or False; not 1"):
        pair_request(IMAGE, [IMAGE], parameters={"match_matrix": 1}, **arguments)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (3, methods_pb2.Target(class_index=3)),
        (np.uint8(3), methods_pb2.Target(class_index=3)),
        (0, methods_pb2.Target(class_index=0)),
        ("goldfish", methods_pb2.Target(label="goldfish")),
    ],
)
def test_targets(target: object, expected: methods_pb2.Target):
    assert request(target=target).target == expected


@pytest.mark.parametrize("target", [-1, 2**40, True, 1.5, ""])
def test_bad_targets(target: object):
    with pytest.raises(InvalidParameterError) as caught:
        request(target=target)
    assert caught.value.field == "target"


def test_rendering_is_sent_whole():
    render = Rendering(
        upsampled=True, color_map="jet", fixed=(-1, 2), interpolation="nearest", max_side=64
    ).resolved(ColorScale.IMAGE)
    sent = request(render=render).rendering
    assert sent == common_pb2.Rendering(
        upsampled=True,
        overlay=True,
        color_map=common_pb2.COLOR_MAP_JET,
        scale=common_pb2.COLOR_SCALE_FIXED,
        fixed_min=-1,
        fixed_max=2,
        opacity=0.6,
        interpolation=common_pb2.INTERPOLATION_NEAREST,
        max_side=64,
    )
