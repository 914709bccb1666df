"""Parameters: ranges, defaults and what an error says."""

from __future__ import annotations

import math

import pytest

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.parameters import Parameter, Profile, choices

FIELD = "method.some.name"


def refused(parameter: Parameter, value: object) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        parameter.resolved(value, FIELD)
    assert caught.value.field == FIELD
    return caught.value.message


def test_what_is_unset_becomes_the_default():
    assert Parameter("n", "int", 7, "", 0, 9).resolved(None, FIELD) == 7
    assert Parameter("n", "ints", (), "", 0, 9).resolved((), FIELD) == ()
    assert Parameter("n", "int", None, "", 0, 9).resolved(None, FIELD) is None


def test_what_is_set_stays_also_where_it_is_false_or_zero():
    assert Parameter("n", "bool", True, "").resolved(False, FIELD) is False
    assert Parameter("n", "int", 3, "", 0, 9).resolved(0, FIELD) == 0
    assert Parameter("n", "float", 0.5, "", minimum=0, below=1).resolved(0.0, FIELD) == 0.0
    assert Parameter("n", "string", "a", "").resolved("b", FIELD) == "b"


@pytest.mark.parametrize("value", [0, 9])
def test_inclusive_bounds_are_in_range(value):
    assert Parameter("n", "int", 3, "", 0, 9).resolved(value, FIELD) == value


@pytest.mark.parametrize("value", [-1, 10])
def test_beyond_inclusive_bounds(value):
    message = refused(Parameter("steps", "int", 3, "", 0, 9), value)
    assert message == f"steps {value} is out of range; it is at least 0, at most 9"


@pytest.mark.parametrize("value", [0.0, 1.0, 1.5])
def test_exclusive_bounds_are_out_of_range(value):
    parameter = Parameter("ratio", "float", 0.3, "", above=0, below=1)
    assert refused(parameter, value) == (
        f"ratio {value:g} is out of range; it is more than 0, less than 1"
    )
    assert parameter.resolved(1e-9, FIELD) == 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_in_range(value):
    for parameter in (
        Parameter("x", "float", 1.0, "", 0, 10),
        Parameter("x", "float", 1.0, "", above=0),
        Parameter("x", "float", 1.0, ""),
    ):
        assert "out of range" in refused(parameter, value)


def test_numbers_of_a_model_are_named_after_what_they_count():
    parameter = Parameter("start_block", "int", 0, "", 2, 11, noun="block")
    assert refused(parameter, 12) == "block 12 is out of range; this model has blocks 2 to 11"


def test_each_of_several_numbers_is_checked():
    parameter = Parameter("blocks", "ints", (), "", 0, 3, noun="block")
    assert parameter.resolved((0, 3), FIELD) == (0, 3)
    assert refused(parameter, (0, 4)) == "block 4 is out of range; this model has blocks 0 to 3"


def test_true_is_no_number():
    assert Parameter("n", "bool", False, "", minimum=5).resolved(True, FIELD) is True


@pytest.mark.parametrize(
    ("default", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0.5, "0.5"),
        (7, "7"),
        (Profile.STRICT, "strict"),
        ((1, 2), "1,2"),
        ((), ""),
        ("blocks.2.norm1", "blocks.2.norm1"),
    ],
)
def test_the_default_as_text(default, text):
    assert Parameter("n", "any", default, "").default_text == text


def test_choices_are_an_enums_values():
    assert choices(Profile) == ("strict", "reference", "paper")
