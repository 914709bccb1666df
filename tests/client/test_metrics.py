import pytest

from pairlens import InvalidParameterError, Method, Metric
from pairlens._parameters import METRICS

VALUES = {"int": 3, "float": 0.3, "floats": (0.1, 0.5)}


@pytest.mark.parametrize("name", METRICS.known())
def test_every_parameter_of_the_contract_can_be_written_and_read(name: str):
    parameters = {
        field.name: list(field.choices)[-1] if field.type == "enum" else VALUES[field.type]
        for field in METRICS.known()[name]
    }
    metric = Metric.of(name, **parameters)
    assert metric == Metric(name, tuple(parameters.items()))
    assert Metric.parse(str(metric)) == metric


def test_metrics_come_in_the_contracts_order():
    assert list(METRICS.known()) == [
        "average_drop",
        "average_increase",
        "deletion",
        "insertion",
        "pointing_game",
        "energy_pointing_game",
    ]


def test_a_metric_is_no_method_of_the_same_name():
    assert Metric("rollout") != Method("rollout")
    assert Metric("rollout") == Metric("rollout")


def test_arguments_come_in_the_contracts_order_as_answers_hold_them():
    metric = Metric.of("deletion", substrate="blur", fractions=[0.25, 0.3])
    assert metric.arguments == (("fractions", (0.25, 0.3)), ("substrate", "blur"))
    assert str(metric) == "deletion(fractions=0.25,0.3, substrate=blur)"


@pytest.mark.parametrize(
    ("name", "parameters", "field", "message"),
    [
        ("delete", {}, "metrics", "unknown metric 'delete'; the metrics are average_drop"),
        ("deletion", {"stride": 3}, "metrics.deletion.stride", "deletion takes profile, steps"),
        ("energy_pointing_game", {"steps": 3}, "metrics.energy_pointing_game.steps", "takes no"),
        ("deletion", {"steps": 2.5}, "metrics.deletion.steps", "integer"),
        ("deletion", {"fractions": []}, "metrics.deletion.fractions", "list of finite numbers"),
        ("deletion", {"fractions": 0.5}, "metrics.deletion.fractions", "list of finite numbers"),
        ("insertion", {"fractions": [0.5, float("nan")]}, "metrics.insertion.fractions", "finite"),
        ("insertion", {"substrate": "BLUR"}, "metrics.insertion.substrate", "mean, black, blur"),
        ("pointing_game", {"tolerance": "15"}, "metrics.pointing_game.tolerance", "number"),
    ],
)
def test_mistakes_name_the_field(
    name: str, parameters: dict[str, object], field: str, message: str
):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        Metric.of(name, **parameters)
    assert caught.value.field == field


def test_a_text_that_is_no_number_names_the_field():
    with pytest.raises(InvalidParameterError, match="could not convert") as caught:
        Metric.parse("deletion(fractions=0.1,half)")
    assert caught.value.field == "metrics.deletion.fractions"


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("average_drop", False),
        ("average_increase", True),
        ("deletion", False),
        ("deletion(order=least_relevant_first)", True),
        ("insertion", True),
        ("insertion(order=least_relevant_first)", False),
        ("insertion(order=most_relevant_first)", True),
        ("energy_pointing_game", True),
    ],
)
def test_what_is_better_turns_with_the_order(text: str, better: bool):
    assert Metric.parse(text).higher_is_better is better


def test_what_is_better_is_unknown_of_a_newer_servers_metric():
    assert Metric("sharpness").higher_is_better is None
