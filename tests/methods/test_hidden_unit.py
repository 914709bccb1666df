"""Hidden units: the chosen one's map, and the strongest with theirs."""

import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import Unit
from pairlens_server.methods.hidden_unit import HiddenUnit, strongest_units
from pairlens_server.recording.facts import LayerGrid, Refusals
from pairlens_server.recording.primitives import HiddenActivations
from tests.support import explained, facts, pixels, recorded, zoo_model, zoo_recorder

GRID = LayerGrid(1, 2, 0, 4, channels_last=False)
MODEL = facts(
    1,
    2,
    layers={"first": GRID, "second": GRID},
    hidden_layers=("first", "second"),
    hidden_units=(4, 3),
)
# Means 1, 3, -1, 3 of four units over two patches.
ACTIVATIONS = torch.tensor([[[[1.0, 1]], [[0, 6]], [[-1, -1]], [[2, 4]]]])


def found(method, activations=ACTIVATIONS, model=MODEL):
    method = method.resolve(model)
    (needed,) = method.needs(model, None)
    (primitive,) = needed.inputs(model)
    return method.explain({needed: needed.derive({primitive: activations}, model)[0]}, model, None)


def test_the_strongest_come_first_and_of_equals_the_earlier():
    order, means = strongest_units(ACTIVATIONS, 4)
    assert order.tolist() == [[1, 3, 0, 2]]
    assert means.tolist() == [[3, 3, 1, -1]]
    assert strongest_units(ACTIVATIONS, 2)[0].tolist() == [[1, 3]]


def test_a_chosen_unit_is_the_map_and_the_strongest_are_panels():
    findings = found(HiddenUnit(block=0, unit=2, strongest=2))
    assert findings.heatmap.tolist() == [[-1, -1]]
    assert findings.units == (Unit(1, 3.0), Unit(3, 3.0))
    assert [(p.block, p.unit, p.head) for p in findings.panels] == [(0, 1, None), (0, 3, None)]
    assert [p.heatmap.tolist() for p in findings.panels] == [[[0, 6]], [[2, 4]]]


def test_without_a_choice_the_map_is_the_strongests():
    findings = found(HiddenUnit(block=0, strongest=1))
    assert findings.heatmap.tolist() == [[0, 6]]
    assert findings.units == (Unit(1, 3.0),)


def test_more_are_asked_for_than_there_are():
    method = HiddenUnit(block=0).resolve(MODEL)
    findings = found(HiddenUnit(block=0))
    assert method.strongest == 8
    assert len(findings.panels) == method.panels(MODEL) == 4
    assert [unit.unit for unit in findings.units] == [1, 3, 0, 2]


def test_every_picture_has_its_own_strongest():
    batch = torch.cat([ACTIVATIONS, -ACTIVATIONS])
    (needed,) = HiddenUnit(block=0, strongest=2).resolve(MODEL).needs(MODEL, None)
    rows = needed.derive({HiddenActivations(0): batch}, MODEL)
    assert rows[:, 1:, 0].tolist() == [[1, 3], [2, 0]]


@pytest.mark.parametrize(
    ("name", "block"),
    [("vit", 1), ("swin", 2), ("pit", 0), ("convnext", 3), ("coat-lite", 1), ("eva02", 0)],
)
def test_maps_of_real_models_are_the_recorded_activations(name, block):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images = pixels(model)
    activations = recorded(recorder, images, HiddenActivations(block))[HiddenActivations(block)]
    chosen = explained(recorder, images, HiddenUnit(block=block, unit=5, strongest=3))
    ranked = activations.mean((2, 3)).sort(dim=1, descending=True)
    for picture, findings in enumerate(chosen):
        assert torch.equal(findings.heatmap, activations[picture, 5])
        assert [u.unit for u in findings.units] == ranked.indices[picture, :3].tolist()
        strengths = torch.tensor([u.strength for u in findings.units])
        torch.testing.assert_close(strengths, ranked.values[picture, :3])
        for panel in findings.panels:
            assert panel.block == block
            assert torch.equal(panel.heatmap, activations[picture, panel.unit])


def test_defaults_are_the_last_block_and_eight():
    method = HiddenUnit().resolve(MODEL)
    assert (method.block, method.unit, method.strongest) == (1, None, 8)


@pytest.mark.parametrize(
    ("method", "field", "text"),
    [
        (HiddenUnit(block=2), "block", "this model has blocks 0 to 1"),
        (HiddenUnit(unit=4), "unit", "this model has units 0 to 3"),
        (HiddenUnit(unit=-1), "unit", "this model has units 0 to 3"),
        (HiddenUnit(block=1, unit=3), "unit", "block 1 has units 0 to 2"),
        (HiddenUnit(strongest=0), "strongest", "at least 1, at most 64"),
        (HiddenUnit(strongest=65), "strongest", "at least 1, at most 64"),
    ],
)
def test_parameters_out_of_range_name_field_and_range(method, field, text):
    with pytest.raises(InvalidParameterError, match=text) as caught:
        method.resolve(MODEL)
    assert caught.value.field == f"method.hidden_unit.{field}"


def test_a_model_without_such_layers_is_refused():
    assert HiddenUnit.refusal(facts(1, 2, refusals=Refusals(hidden="no MLP"))) == "no MLP"
