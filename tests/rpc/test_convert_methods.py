"""Methods of a request, read and written; field by field in test_convert_parameters.py."""

import pytest

from pairlens.rendering import Box
from pairlens.v1 import methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import RawAttention, RawPower
from pairlens_server.methods.attention_mask import AttentionMask
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.masking import MaskSource
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.rollout import Rollout
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.rpc.convert_methods import (
    explanation_message,
    explanation_method,
    pair_message,
    pair_method,
)


@pytest.mark.parametrize(
    ("container", "kinds", "read", "write"),
    [
        (
            methods_pb2.ExplanationMethod,
            EXPLANATION_METHODS,
            explanation_method,
            explanation_message,
        ),
        (methods_pb2.PairMethod, PAIR_METHODS, pair_method, pair_message),
    ],
)
def test_every_method_goes_there_and_back(container, kinds, read, write):
    for kind in kinds:
        message = container(**{kind.name: {}})
        assert read(message) == kind()
        assert read(write(kind())) == kind()
        assert write(kind()).WhichOneof("method") == kind.name


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (explanation_method, methods_pb2.ExplanationMethod(rollout={"fusion": 99})),
        (pair_method, methods_pb2.PairMethod(grad_cam={"rule": 99})),
    ],
)
@pytest.mark.parametrize("path", ["method", "pair_method"])
def test_errors_name_the_field_that_held_the_method(read, message, path):
    name = message.WhichOneof("method")
    with pytest.raises(InvalidParameterError) as caught:
        read(message, path)
    assert caught.value.field == f"{path}.{name}.{'fusion' if name == 'rollout' else 'rule'}"
    with pytest.raises(InvalidParameterError) as caught:
        read(type(message)(), path)
    assert caught.value.field == path


@pytest.mark.parametrize(
    ("container", "read"),
    [
        (methods_pb2.ExplanationMethod, explanation_method),
        (methods_pb2.PairMethod, pair_method),
    ],
)
def test_a_method_of_a_newer_contract_is_not_taken_for_the_default(container, read):
    newer = container.FromString(b"\xfa\x3e\x00")  # an empty field 1007
    names = ", ".join(field.name for field in container.DESCRIPTOR.fields)
    with pytest.raises(InvalidParameterError, match=names) as caught:
        read(newer)
    assert caught.value.field == "method"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"raw_attention": {"block": 0, "head": 3}}, RawAttention(0, 3)),
        ({"raw_power": {"power": 0.5}}, RawPower(power=0.5)),
        (
            {"rollout": {"start_block": 0, "profile": "PROFILE_PAPER", "discard_ratio": 0.5}},
            Rollout(start_block=0, profile=Profile.PAPER, discard_ratio=0.5),
        ),
        ({"rollout": {"fusion": "HEAD_FUSION_MAX"}}, Rollout(fusion=HeadFusion.MAX)),
        ({"grad_cam": {"layer": "layer4.1"}}, GradCam("layer4.1")),
        (
            {"attention_mask": {"source": "MASK_SOURCE_LOG", "blocks": [2, 0], "seed": 0}},
            AttentionMask(source=MaskSource.LOG, blocks=(2, 0), seed=0),
        ),
    ],
)
def test_methods_read_by_hand(message, expected):
    assert explanation_method(methods_pb2.ExplanationMethod(**message)) == expected


def test_a_region_is_a_box():
    box = {"left": 1, "top": 2, "right": 3, "bottom": 4.5}
    message = methods_pb2.PairMethod(correspondence={"candidate_region": box})
    assert pair_method(message) == Correspondence(None, Box(1, 2, 3, 4.5))
