"""What the server tells about metrics: parameters, defaults and cost."""

import pytest

from pairlens.v1 import metrics_pb2, model_service_pb2
from pairlens_server.fidelity.catalogue import METRICS
from pairlens_server.recording.recorder import Recorder
from pairlens_server.rpc.model_info import model_info
from tests.support import vit, zoo_model, zoo_recorder
from tests.zoo import zoo


def metrics_of_vit() -> dict[str, model_service_pb2.MetricInfo]:
    model = vit()
    return {metric.name: metric for metric in model_info(model, Recorder(model).facts).metrics}


@pytest.mark.parametrize("name", zoo())
def test_metrics(name):
    described = model_info(zoo_model(name), zoo_recorder(name).facts)
    pixels = described.input_height * described.input_width
    assert [metric.name for metric in described.metrics] == [kind.name for kind in METRICS]
    for metric in described.metrics:
        assert metric.summary
        assert metric.source
        assert metric.defaults.WhichOneof("metric") == metric.name
        message = getattr(metrics_pb2.Metric(), metric.name)
        names = [field.name for field in message.DESCRIPTOR.fields]
        assert [parameter.name for parameter in metric.parameters] == names
        assert all(parameter.description for parameter in metric.parameters)
        assert metric.needs_region == (metric.name.endswith("pointing_game"))
        assert metric.higher_is_better == (metric.name not in ("average_drop", "deletion"))
    passes = [metric.forward_passes for metric in described.metrics]
    steps = min(64, pixels)
    assert passes == [2, 2, steps + 1, steps + 1, 0, 0]


def test_defaults_of_metrics_are_resolved_for_the_model():
    drop, increase, deletion, insertion, pointing, energy = metrics_of_vit().values()
    assert drop.defaults.average_drop == metrics_pb2.AverageDrop(
        profile="PROFILE_STRICT",
        substrate="SUBSTRATE_BLACK",
        seed=0,
        scored_class="SCORED_CLASS_TARGET",
    )
    for name in ("profile", "substrate", "seed", "scored_class"):
        ours = getattr(increase.defaults.average_increase, name)
        assert ours == getattr(drop.defaults.average_drop, name)
    assert deletion.defaults.deletion == metrics_pb2.Deletion(
        profile="PROFILE_STRICT",
        steps=64,
        substrate="SUBSTRATE_MEAN",
        seed=0,
        unit="ERASURE_UNIT_PIXELS",
        order="ERASURE_ORDER_MOST_RELEVANT_FIRST",
        scored_class="SCORED_CLASS_TARGET",
    )
    assert insertion.defaults.insertion.substrate == metrics_pb2.SUBSTRATE_BLUR
    # 5 pixels at 224, and this input has a shorter side of 32.
    assert insertion.defaults.insertion.blur_sigma == pytest.approx(5 / 7)
    assert pointing.defaults.pointing_game.tolerance == 0
    assert pointing.defaults.pointing_game.HasField("tolerance")
    assert not energy.parameters


@pytest.mark.parametrize(
    ("metric", "parameter", "low", "high"),
    [
        ("deletion", "steps", 1, 32 * 48),
        ("insertion", "step_size", 1, 32 * 48),
        ("deletion", "fractions", 0, 1),
        ("insertion", "blur_sigma", 0, 48),
        ("average_drop", "seed", 0, 2**32 - 1),
        ("average_drop", "substrate", None, None),
        ("pointing_game", "tolerance", 0, None),
    ],
)
def test_ranges_of_metrics(metric, parameter, low, high):
    (found,) = [p for p in metrics_of_vit()[metric].parameters if p.name == parameter]
    assert (found.minimum if found.HasField("minimum") else None) == low
    assert (found.maximum if found.HasField("maximum") else None) == high
    assert found.minimum_excluded == (parameter in ("fractions", "blur_sigma"))
    assert found.maximum_excluded == (parameter == "fractions")


def test_choices_of_metrics():
    described = metrics_of_vit()
    substrates = ["mean", "black", "blur", "noise"]
    for name, more in (("average_drop", []), ("deletion", ["noisy_linear"])):
        parameters = {p.name: p for p in described[name].parameters}
        assert list(parameters["substrate"].choices) == substrates + more
        # PAPER is refused.
        assert list(parameters["profile"].choices) == ["strict", "reference"]
    assert parameters["fractions"].type == "floats"
    assert parameters["steps"].default_value == ""
    assert parameters["profile"].default_value == "strict"
