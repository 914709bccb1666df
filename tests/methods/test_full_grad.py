"""FullGrad as a method; its sums are tested in `tests/recording/test_contributions.py`."""

import pytest
import torch

from pairlens_server.errors import MethodUnsupportedError
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.primitives import GradientContributions, GradientRule
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import explained, facts, pixels, zoo_model, zoo_recorder

TARGET = ClassLogit(1)
MODEL = facts(2, 2)
# Four cells, what lies on none, the score.
SUMS = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.25, 3.0])


def test_cells_are_laid_out_and_the_rest_is_counted_in_the_error():
    method = FullGrad().resolve(MODEL)
    (needed,) = method.needs(MODEL, TARGET)
    assert needed == GradientContributions(TARGET, GradientRule.LIBRA, absolute=False)
    found = method.explain({needed: SUMS}, MODEL, TARGET)
    assert found.heatmap.tolist() == [[1, -2], [3, 0.5]]
    assert found.completeness_error == pytest.approx(2.75 - 3)


def test_absolute_values_have_no_error():
    method = FullGrad(absolute=True).resolve(MODEL)
    (needed,) = method.needs(MODEL, TARGET)
    assert needed.absolute
    assert method.explain({needed: SUMS}, MODEL, TARGET).completeness_error is None


def test_the_default_rule_is_libra_where_there_is_one():
    assert FullGrad().resolve(MODEL).rule is GradientRule.LIBRA
    odd = facts(2, 2, refusals=Refusals(libra="odd norms"))
    assert FullGrad().resolve(odd).rule is GradientRule.PLAIN
    with pytest.raises(MethodUnsupportedError, match="odd norms") as caught:
        FullGrad(rule=GradientRule.LIBRA).resolve(odd)
    assert caught.value.field == "method.full_grad.rule"


def test_refusal_is_the_models_own():
    assert FullGrad.refusal(facts(2, 2, refusals=Refusals(contributions="thresholds"))) == (
        "thresholds"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("vit", "vit-avg", "vit-avg-fcnorm", "vit-max", "eva02", "swin", "pit", "coat", "convit"),
        *("xcit", "convnext", "resnet", "resnetv2"),
    ],
)
def test_signed_sums_meet_the_score_under_libra(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, size = pixels(model), recorder.facts.embedding_size
    for target in (TARGET, Similarity.to(torch.ones(1, size))):
        scores = recorder.scores(images, target)
        for findings, score in zip(
            explained(recorder, images, FullGrad(), target), scores.tolist(), strict=True
        ):
            assert abs(findings.completeness_error) < 1e-4 * max(1, abs(score))
            assert findings.heatmap.shape == (model.layout.rows, model.layout.columns)
            assert float(findings.heatmap.abs().max()) > 1e-3


def test_plain_gradients_of_a_relu_network_meet_its_score_too():
    # Srinivas and Fleuret 2019, proposition 1.
    recorder, images = zoo_recorder("resnet"), pixels(zoo_model("resnet"))
    for findings in explained(recorder, images, FullGrad(rule=GradientRule.PLAIN), TARGET):
        assert abs(findings.completeness_error) < 1e-3
