"""Integrated gradients and occlusion as methods; their probes are tested in `tests/recording`."""

import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.recording.baselines import Fill
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import facts, pixels, zoo_model, zoo_recorder

MODEL = facts(3, 4, black=(-2.0, -1.5, -1.0))
TARGET = ClassLogit(1)


def run(name, method, target, chunk=7):
    """The method on one picture, as the service runs it, in chunks."""
    model, recorder = zoo_model(name), zoo_recorder(name)
    picture, known = pixels(model, 1)[0], recorder.facts
    method = method.resolve(known)
    probe = method.probe({}, known, target)
    starts = range(0, probe.steps, chunk)
    parts = [probe.run(recorder, picture, s, min(s + chunk, probe.steps)) for s in starts]
    found = {method.probed(target): probe.combine(parts)}
    return picture, method.explain(found, known, target)


@pytest.mark.parametrize("name", ["vit", "swin", "resnet", "pit", "siglip"])
def test_integrated_gradients_add_up_to_the_difference_of_scores(name):
    recorder = zoo_recorder(name)
    size = recorder.facts.embedding_size
    for target in (TARGET, Similarity.to(torch.ones(1, size))):
        picture, findings = run(name, IntegratedGradients(steps=128), target)
        ends = torch.stack([picture, torch.zeros_like(picture)])
        score, empty = recorder.scores(ends, target).tolist()
        missed = float(findings.heatmap.sum()) - (score - empty)
        assert findings.completeness_error == pytest.approx(missed, abs=1e-4)
        assert abs(missed) < 0.05 * max(1, abs(score - empty))


@pytest.mark.parametrize("name", ["vit-avg", "swin", "convnext"])
def test_occlusion_is_the_drop_of_the_score(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    picture, findings = run(name, Occlusion(fill=Fill.BLACK), TARGET)
    layout, black = model.layout, torch.tensor(recorder.facts.black)[:, None, None]
    down = picture.shape[1] // layout.rows
    across = picture.shape[2] // layout.columns
    clean = recorder.scores(picture[None], TARGET)
    for row, column in ((0, 0), (1, 2), (layout.rows - 1, layout.columns - 1)):
        hidden = picture.clone()
        hidden[:, row * down : (row + 1) * down, column * across : (column + 1) * across] = black
        drop = clean - recorder.scores(hidden[None], TARGET)
        torch.testing.assert_close(findings.heatmap[row, column], drop[0], atol=1e-5, rtol=1e-5)


def test_defaults():
    path = IntegratedGradients().resolve(MODEL)
    assert (path.steps, path.baseline, path.seed) == (32, Fill.MEAN, 0)
    window = Occlusion().resolve(MODEL)
    assert (window.window, window.fill, window.seed) == (1, Fill.MEAN, 0)


def test_the_probe_gets_the_parameters():
    probe = Occlusion(window=3, fill=Fill.NOISE, seed=9).resolve(MODEL).probe({}, MODEL, TARGET)
    assert (probe.window, probe.baseline.fill, probe.baseline.seed) == (3, Fill.NOISE, 9)
    assert probe.baseline.black == (-2.0, -1.5, -1.0)
    assert probe.layout == MODEL.layout
    path = IntegratedGradients(steps=5, baseline=Fill.BLUR).resolve(MODEL).probe({}, MODEL, TARGET)
    assert (path.points, path.baseline.fill, path.target) == (5, Fill.BLUR, TARGET)


@pytest.mark.parametrize(
    ("method", "field", "text"),
    [
        (IntegratedGradients(steps=1), "integrated_gradients.steps", "at least 2, at most 512"),
        (IntegratedGradients(steps=513), "integrated_gradients.steps", "at least 2, at most 512"),
        (IntegratedGradients(seed=-1), "integrated_gradients.seed", "at least 0"),
        (IntegratedGradients(seed=2**32), "integrated_gradients.seed", "at most"),
        (Occlusion(window=0), "occlusion.window", "at least 1, at most 3"),
        (Occlusion(window=5), "occlusion.window", "at least 1, at most 3"),
        (Occlusion(window=2), "occlusion.window", "window 2 has no cell at its centre"),
        (Occlusion(seed=-1), "occlusion.seed", "at least 0"),
    ],
)
def test_parameters_out_of_range_name_field_and_range(method, field, text):
    with pytest.raises(InvalidParameterError, match=text) as caught:
        method.resolve(MODEL)
    assert caught.value.field == f"method.{field}"


def test_every_model_can_be_asked():
    for kind in (IntegratedGradients, Occlusion):
        assert kind.refusal(MODEL) == ""
        assert kind().resolve(MODEL).needs(MODEL, TARGET) == ()


def test_results_of_other_parameters_and_targets_have_other_names():
    names = {
        Occlusion(window=window).resolve(MODEL).probed(target)
        for window in (1, 3)
        for target in (ClassLogit(0), ClassLogit(1))
    }
    assert len({name.key for name in names}) == 4
