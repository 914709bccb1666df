"""Methods of the catalogue against the messages of the contract, field by field."""

from dataclasses import fields
from enum import Enum
from typing import Any, get_args, get_type_hints

import pytest
from google.protobuf.descriptor import FieldDescriptor

from pairlens.rendering import Box
from pairlens.v1 import common_pb2, methods_pb2
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

UNKNOWN = 99
EXPLAIN = (methods_pb2.ExplanationMethod, explanation_method, explanation_message)
PAIR = (methods_pb2.PairMethod, pair_method, pair_message)
ALL = [
    pytest.param(kind, *side, id=f"{side[0].DESCRIPTOR.name}-{kind.name}")
    for side, kinds in ((EXPLAIN, EXPLANATION_METHODS), (PAIR, PAIR_METHODS))
    for kind in kinds
]


def repeated(field: FieldDescriptor) -> bool:
    return bool(field.default_value == [])


def numbers(field: FieldDescriptor) -> list[int]:
    """Numbers of an enum, without the unset one."""
    return [value.number for value in field.enum_type.values if value.number]


def given(field: FieldDescriptor) -> list[Any]:
    """Values that a caller may set a field to, a zero among them where it is not unset."""
    if repeated(field):
        return [[0], [3, 1, 2]]
    if field.enum_type is not None:
        return numbers(field)
    if field.message_type is not None:
        return [common_pb2.Box(left=0.5, top=-1, right=20, bottom=30.25), common_pb2.Box()]
    return {
        FieldDescriptor.CPPTYPE_UINT32: [0, 7, 2**32 - 1],
        FieldDescriptor.CPPTYPE_FLOAT: [0.0, 0.25, float("inf")],
        FieldDescriptor.CPPTYPE_BOOL: [True],
        FieldDescriptor.CPPTYPE_STRING: ["", "blocks.2.norm1"],
    }[field.cpp_type]


def message_of(container: Any, name: str, **values: Any) -> Any:
    kind = getattr(container(), name).__class__
    return container(**{name: kind(**values)})


def descriptors(kind: Any, container: Any) -> list[FieldDescriptor]:
    return list(getattr(container(), kind.name).DESCRIPTOR.fields)


@pytest.mark.parametrize(
    ("container", "kinds"),
    [(methods_pb2.ExplanationMethod, EXPLANATION_METHODS), (methods_pb2.PairMethod, PAIR_METHODS)],
)
def test_every_choice_of_the_contract_has_a_class_and_every_class_a_choice(container, kinds):
    names = [field.name for field in container.DESCRIPTOR.oneofs_by_name["method"].fields]
    assert sorted(names) == sorted(kind.name for kind in kinds)
    assert len({kind.name for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(("kind", "container", "read", "write"), ALL)
def test_fields_of_class_and_message_are_the_same(kind, container, read, write):
    message = descriptors(kind, container)
    assert [field.name for field in fields(kind)] == [field.name for field in message]


@pytest.mark.parametrize(("kind", "container", "read", "write"), ALL)
def test_what_is_unset_stays_unset(kind, container, read, write):
    method = read(message_of(container, kind.name))
    assert method == kind()
    assert type(method) is kind
    there = write(method)
    assert there.WhichOneof("method") == kind.name
    assert read(there) == method
    for field in descriptors(kind, container):
        if field.has_presence:
            assert not getattr(there, kind.name).HasField(field.name), field.name


@pytest.mark.parametrize(("kind", "container", "read", "write"), ALL)
def test_what_is_set_goes_there_and_back_and_alone(kind, container, read, write):
    for field in descriptors(kind, container):
        for value in given(field):
            message = message_of(container, kind.name, **{field.name: value})
            method = read(message)
            assert getattr(method, field.name) is not None
            others = {f.name for f in fields(kind)} - {field.name}
            assert all(getattr(method, name) == getattr(kind(), name) for name in others)
            back = getattr(write(method), kind.name)
            assert getattr(back, field.name) == getattr(getattr(message, kind.name), field.name)
            assert read(write(method)) == method


@pytest.mark.parametrize(("kind", "container", "read", "write"), ALL)
def test_everything_at_once_comes_back_as_it_went(kind, container, read, write):
    values = {field.name: given(field)[-1] for field in descriptors(kind, container)}
    message = message_of(container, kind.name, **values)
    assert write(read(message)) == message


@pytest.mark.parametrize(("kind", "container", "read", "write"), ALL)
def test_enums_have_the_same_names(kind, container, read, write):
    hints = get_type_hints(kind)
    for field in descriptors(kind, container):
        if field.enum_type is None:
            continue
        hint = hints[field.name]
        (enum,) = [
            c for c in (hint, *get_args(hint)) if isinstance(c, type) and issubclass(c, Enum)
        ]
        names = [value.name for value in field.enum_type.values]
        prefix = names[0].removesuffix("UNSPECIFIED")
        assert [name.removeprefix(prefix).lower() for name in names[1:]] == [m.value for m in enum]
        with pytest.raises(InvalidParameterError, match="no value has number 99") as caught:
            read(message_of(container, kind.name, **{field.name: UNKNOWN}))
        assert caught.value.field == f"method.{kind.name}.{field.name}"


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
