import pytest

from pairlens import Box, InvalidParameterError, Method, MethodKind, specs


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" rollout , grad_cam ", ["rollout", "grad_cam"]),
        (
            "rollout(block=3,head=0),deletion(fractions=0.1,0.5, steps=2),x",
            ["rollout(block=3,head=0)", "deletion(fractions=0.1,0.5, steps=2)", "x"],
        ),
    ],
)
def test_commas_in_parentheses_part_nothing(text: str, parts: list[str]):
    assert specs.split(text) == parts


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("rollout", "rollout", {}),
        ("grad-cam()", "grad_cam", {}),
        (
            "deletion(fractions=0.1,0.5, step-size = 3,substrate=blur)",
            "deletion",
            {"fractions": "0.1,0.5", "step_size": "3", "substrate": "blur"},
        ),
        ("x(layer=blocks.3.norm1)", "x", {"layer": "blocks.3.norm1"}),
    ],
)
def test_a_list_needs_no_quotes(text: str, name: str, parameters: dict[str, str]):
    assert specs.parse(text) == (name, parameters)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no name"),
        ("rollout(", "no name"),
        ("rollout(block=3) x", "no name"),
        ("rollout(3)", "'3' in 'rollout\\(3\\)' is no parameter=value"),
        ("rollout(block=3,block=4)", "block is given twice"),
    ],
)
def test_other_forms_are_refused(text: str, message: str):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        specs.parse(text, field="metrics")
    assert caught.value.field == "metrics"


def test_the_text_of_a_method_is_the_method():
    for kind, made in (
        (MethodKind.EXPLANATION, Method("attention_mask", (("blocks", (3, 0)),))),
        (
            MethodKind.PAIR,
            Method("correspondence", (("query_region", Box(1.5, 2, 30, 40)),)),
        ),
        (
            MethodKind.PAIR,
            Method("pooled_decomposition", (("profile", "strict"), ("match_matrix", True))),
        ),
    ):
        assert specs.method(str(made), kind) == made


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("polaroid", "method"),
        ("rollout(colour=3)", "method.rollout.colour"),
        ("raw_attention(block=three)", "method.raw_attention.block"),
        ("raw_attention(block=-1)", "method.raw_attention.block"),
        ("pooled_decomposition(match_matrix=yes)", "method.pooled_decomposition.match_matrix"),
    ],
)
def test_mistakes_name_the_parameter(text: str, field: str):
    with pytest.raises(InvalidParameterError) as caught:
        specs.method(text, MethodKind.EXPLANATION)
    assert caught.value.field == field
