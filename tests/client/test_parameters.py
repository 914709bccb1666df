import numpy as np
import pytest

from pairlens._parameters import decode, fill, known_methods
from pairlens.errors import InvalidParameterError
from pairlens.models import Method, MethodKind
from pairlens.rendering import Box
from pairlens.v1 import methods_pb2

VALUES = {
    "int": 3,
    "float": 0.3,
    "bool": True,
    "string": "blocks.3.norm1",
    "ints": (3, 0),
    "box": Box(1.5, 2, 30, 40),
}
KINDS = {
    MethodKind.EXPLANATION: methods_pb2.ExplanationMethod,
    MethodKind.PAIR: methods_pb2.PairMethod,
}
METHODS = [(kind, method) for kind in MethodKind for method in known_methods(kind)]


def filled(method: str, kind: MethodKind = MethodKind.EXPLANATION, **parameters: object):
    container = KINDS[kind]()
    fill(container, kind, method, parameters)
    return container


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_every_parameter_of_the_contract_can_be_sent_and_read(kind: MethodKind, method: str):
    parameters = {
        field.name: list(field.choices)[-1] if field.type == "enum" else VALUES[field.type]
        for field in known_methods(kind)[method]
    }
    assert decode(filled(method, kind, **parameters)) == Method(method, tuple(parameters.items()))


@pytest.mark.parametrize("kind", MethodKind)
def test_a_name_means_the_same_in_all_methods(kind: MethodKind):
    # The flags of the command line rest on it.
    seen: dict[str, object] = {}
    for fields in known_methods(kind).values():
        for field in fields:
            assert seen.setdefault(field.name, field) == field


def test_methods_come_in_the_contracts_order():
    assert list(known_methods(MethodKind.EXPLANATION))[:4] == [
        "raw_attention",
        "rollout",
        "grad_cam",
        "raw_scores",
    ]


def test_unset_parameters_are_absent():
    assert decode(filled("attention_mask", blocks=[7])) == Method(
        "attention_mask", (("blocks", (7,)),)
    )
    assert decode(methods_pb2.ExplanationMethod(attention_mask={})) == Method("attention_mask")
    assert decode(methods_pb2.PairMethod(correspondence={})) == Method("correspondence")
    assert decode(methods_pb2.PairMethod()) is None


def test_numbers_of_numpy():
    sent = filled("attention_mask", blocks=np.array([3, 7]), ratio=np.float32(0.5), seed=np.int8(4))
    assert list(sent.attention_mask.blocks) == [3, 7]
    assert (sent.attention_mask.ratio, sent.attention_mask.seed) == (0.5, 4)
    assert filled("attention_mask", ratio=1).attention_mask.ratio == 1  # an int is a float


@pytest.mark.parametrize("region", [(1, 2, 3.5, 4), [1, 2, 3.5, 4], Box(1, 2, 3.5, 4)])
def test_regions(region: object):
    sent = filled("correspondence", MethodKind.PAIR, query_region=region).correspondence
    edges = sent.query_region
    assert (edges.left, edges.top, edges.right, edges.bottom) == (1, 2, 3.5, 4)
    assert not sent.HasField("candidate_region")


@pytest.mark.parametrize(
    ("method", "name", "values", "message"),
    [
        ("raw_power", "power", ["0.5", True, float("nan"), float("inf"), 1e39], "a finite number"),
        ("grad_cam", "layer", [3, None, b"layer4"], "a text"),
        ("attention_mask", "blocks", ["3", 3, [], [1, -1], [1, "2"], [True]], "a list of integers"),
        ("raw_attention", "each", ["unspecified", 2, "heads"], "one of none, head, block, block_a"),
        ("full_grad", "absolute", [1, "true"], "True or False"),
    ],
)
def test_values_of_another_type(method: str, name: str, values: list[object], message: str):
    for value in values:
        with pytest.raises(InvalidParameterError, match=f"{name} is {message}") as caught:
            filled(method, **{name: value})
        assert caught.value.field == f"method.{method}.{name}"


@pytest.mark.parametrize(
    "region",
    [(1, 2, 3), (1, 2, 3, 4, 5), (3, 2, 1, 4), (1, 4, 3, 4), (0, 0, float("inf"), 1), "1,2,3,4", 7],
)
def test_regions_without_an_inside(region: object):
    with pytest.raises(InvalidParameterError, match=r"query_region is a Box or \(left") as caught:
        filled("correspondence", MethodKind.PAIR, query_region=region)
    assert caught.value.field == "method.correspondence.query_region"


def test_methods_are_written_as_the_command_line_takes_them():
    method = Method(
        "m", (("blocks", (3, 7)), ("region", Box(1, 2.5, 3, 4)), ("ratio", 0.3), ("line", 1.0))
    )
    assert str(method) == "m(blocks=3,7, region=1,2.5,3,4, ratio=0.3, line=1)"
