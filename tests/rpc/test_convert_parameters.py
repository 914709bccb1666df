"""Methods and metrics against the messages of the contract, field by field."""

from dataclasses import fields
from enum import Enum
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor

from pairlens.v1 import common_pb2, methods_pb2, metrics_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.catalogue import METRICS
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.pointing import PointingGame
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS
from pairlens_server.rpc.convert_parameters import MAX_VALUES, read_parameters, write_parameters

UNKNOWN = 99
CATALOGUES = {
    methods_pb2.ExplanationMethod: EXPLANATION_METHODS,
    methods_pb2.PairMethod: PAIR_METHODS,
    metrics_pb2.Metric: METRICS,
}
ALL = [
    pytest.param(container, kind, id=f"{container.DESCRIPTOR.name}-{kind.name}")
    for container, kinds in CATALOGUES.items()
    for kind in kinds
]


def repeated(field: FieldDescriptor) -> bool:
    return bool(field.default_value == [])


def given(field: FieldDescriptor) -> list[Any]:
    """Values that a caller may set a field to, a zero among them where it is not unset."""
    if repeated(field):
        floats = field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT
        return [[0.0], [0.5, 0.1, 0.25]] if floats else [[0], [3, 1, 2]]
    if field.enum_type is not None:
        return [value.number for value in field.enum_type.values if value.number]
    if field.message_type is not None:
        return [common_pb2.Box(left=0.5, top=-1, right=20, bottom=30.25), common_pb2.Box()]
    return {
        FieldDescriptor.CPPTYPE_UINT32: [0, 7, 2**32 - 1],
        FieldDescriptor.CPPTYPE_FLOAT: [0.0, 0.1, float("inf")],
        FieldDescriptor.CPPTYPE_BOOL: [True],
        FieldDescriptor.CPPTYPE_STRING: ["", "blocks.2.norm1"],
    }[field.cpp_type]


def message_of(container: Any, kind: Any, **values: Any) -> Any:
    chosen = getattr(container(), kind.name).__class__
    return container(**{kind.name: chosen(**values)})


def read(message: Any, kind: Any) -> Any:
    return read_parameters(message, kind, "asked[3]")


def written(container: Any, value: Any) -> Any:
    message = container()
    write_parameters(getattr(message, value.name), value)
    return message


def descriptors(container: Any, kind: Any) -> list[FieldDescriptor]:
    return list(getattr(container(), kind.name).DESCRIPTOR.fields)


@pytest.mark.parametrize("container", CATALOGUES)
def test_every_choice_of_the_contract_has_a_class_and_every_class_a_choice(container):
    kinds = CATALOGUES[container]
    (choices,) = container.DESCRIPTOR.oneofs
    assert sorted(field.name for field in choices.fields) == sorted(kind.name for kind in kinds)
    assert len({kind.name for kind in kinds}) == len(kinds)


def test_metrics_are_in_the_order_of_the_contract():
    names = [field.name for field in metrics_pb2.Metric.DESCRIPTOR.fields]
    assert [kind.name for kind in METRICS] == names


@pytest.mark.parametrize(("container", "kind"), ALL)
def test_fields_of_class_and_message_are_the_same(container, kind):
    names = [field.name for field in descriptors(container, kind)]
    ours = [field.name for field in fields(kind)]
    if container is metrics_pb2.Metric:
        # Whose classes share fields by inheritance.
        names, ours = sorted(names), sorted(ours)
    assert ours == names


@pytest.mark.parametrize(("container", "kind"), ALL)
def test_what_is_unset_stays_unset(container, kind):
    value = read(message_of(container, kind), kind)
    assert value == kind()
    assert type(value) is kind
    there = written(container, value)
    (choices,) = container.DESCRIPTOR.oneofs
    assert there.WhichOneof(choices.name) == kind.name
    assert read(there, kind) == value
    for field in descriptors(container, kind):
        if field.has_presence:
            assert not getattr(there, kind.name).HasField(field.name), field.name


@pytest.mark.parametrize(("container", "kind"), ALL)
def test_what_is_set_goes_there_and_back_and_alone(container, kind):
    for field in descriptors(container, kind):
        for given_value in given(field):
            message = message_of(container, kind, **{field.name: given_value})
            value = read(message, kind)
            assert getattr(value, field.name) is not None
            others = {f.name for f in fields(kind)} - {field.name}
            assert all(getattr(value, name) == getattr(kind(), name) for name in others)
            back = getattr(written(container, value), kind.name)
            assert getattr(back, field.name) == getattr(getattr(message, kind.name), field.name)
            assert read(written(container, value), kind) == value


@pytest.mark.parametrize(("container", "kind"), ALL)
def test_everything_at_once_comes_back_as_it_went(container, kind):
    values = {field.name: given(field)[-1] for field in descriptors(container, kind)}
    message = message_of(container, kind, **values)
    assert written(container, read(message, kind)) == message


@pytest.mark.parametrize(("container", "kind"), ALL)
def test_enums_have_the_same_names(container, kind):
    hints = get_type_hints(kind)
    for field in descriptors(container, kind):
        if field.enum_type is None:
            continue
        hint = hints[field.name]
        (enum,) = [
            c for c in (hint, *get_args(hint)) if isinstance(c, type) and issubclass(c, Enum)
        ]
        names = [value.name for value in field.enum_type.values]
        prefix = names[0].removesuffix("UNSPECIFIED")
        assert [name.removeprefix(prefix).lower() for name in names[1:]] == [m.value for m in enum]
        message = message_of(container, kind, **{field.name: UNKNOWN})
        with pytest.raises(InvalidParameterError, match="no value has number 99") as caught:
            read(message, kind)
        assert caught.value.field == f"asked[3].{kind.name}.{field.name}"


@pytest.mark.parametrize("number", [0.1, 0.7, 0.9, 1 / 3, 1e-9, 123456.7])
def test_a_float_arrives_as_it_was_meant(number):
    """As the shortest decimal that the float32 of the wire stands for."""
    for kind, field in ((PointingGame, "tolerance"), (Insertion, "blur_sigma")):
        message = message_of(metrics_pb2.Metric, kind, **{field: number})
        arrived = getattr(read(message, kind), field)
        assert arrived == float(str(np.float32(number)))
        if number != 1 / 3:  # which has more digits than a float32
            assert arrived == number
    message = message_of(metrics_pb2.Metric, Deletion, fractions=[number, 0.3])
    assert read(message, Deletion).fractions == (float(str(np.float32(number))), 0.3)


@pytest.mark.parametrize(("container", "kind"), ALL)
def test_lists_are_bounded(container, kind):
    for field in descriptors(container, kind):
        if not repeated(field):
            continue
        fits = message_of(container, kind, **{field.name: [1] * MAX_VALUES})
        assert len(getattr(read(fits, kind), field.name)) == MAX_VALUES
        message = message_of(container, kind, **{field.name: [1] * (MAX_VALUES + 1)})
        with pytest.raises(InvalidParameterError, match="10001 values") as caught:
            read(message, kind)
        assert caught.value.field == f"asked[3].{kind.name}.{field.name}"
