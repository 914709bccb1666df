"""The list of methods: names, descriptions, parameters, defaults."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from pairlens.v1 import methods_pb2
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.catalogue import (
    EXPLANATION_METHODS,
    PAIR_METHODS,
    default_explanation_method,
    default_pair_method,
    default_similarity_method,
)
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.relevance import AttentionRelevance
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import explained, facts, pixels, zoo_model, zoo_recorder
from tests.zoo import zoo

ALL = tuple(dict.fromkeys((*EXPLANATION_METHODS, *PAIR_METHODS)))
# A recording of these is a probe, which is tested in test_perturbation and test_cam.
PROBING = ("integrated_gradients", "occlusion", "score_cam")


def oneof(message) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.oneofs_by_name["method"].fields]


def test_the_contract_has_the_same_methods():
    explain = [method.name for method in EXPLANATION_METHODS]
    assert sorted(explain) == sorted(oneof(methods_pb2.ExplanationMethod))
    pair = [method.name for method in PAIR_METHODS]
    assert sorted(pair) == sorted(oneof(methods_pb2.PairMethod))


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_every_field_is_a_parameter_of_the_contract(method):
    facts_of_all = zoo_recorder("vit-avg").facts
    named = [parameter.name for parameter in method.parameters(facts_of_all)]
    assert sorted(named) == sorted(field.name for field in fields(method))
    message = getattr(methods_pb2, "".join(part.title() for part in method.name.split("_")))
    assert sorted(named) == sorted(field.name for field in message.DESCRIPTOR.fields)


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_every_method_says_what_it_is(method):
    assert method.summary
    assert not method.summary.endswith(".")
    assert method.paper
    assert method.revision >= 1
    for parameter in method.parameters(zoo_recorder("vit-avg").facts):
        assert parameter.description
        assert parameter.type in ("int", "float", "bool", "string", "enum", "ints", "box")
        assert bool(parameter.choices) is (parameter.type == "enum")
        if parameter.choices and parameter.default is not None:
            assert parameter.default_text in parameter.choices


@pytest.mark.parametrize("name", sorted(zoo()))
def test_every_method_is_given_or_refused_with_a_reason(name):
    """What a model is said to give it gives: finite maps on a grid, that are not flat."""
    model, recorder = zoo_model(name), zoo_recorder(name)
    known, images = recorder.facts, pixels(model, 1)
    similar = Similarity.to(torch.randn(1, known.embedding_size))
    given = 0
    for kind in EXPLANATION_METHODS:
        if kind.refusal(known) or kind.name in PROBING:
            continue
        assert kind.forward_passes(known) >= 1
        targets = [similar] if kind.takes_similarity else []
        if kind.takes_class and known.classes:
            targets.append(ClassLogit(None))
        for target in targets or [None]:
            (findings,) = explained(recorder, images, kind(), target)
            assert torch.isfinite(findings.heatmap).all()
            assert findings.heatmap.dtype == torch.float32
            assert min(findings.heatmap.shape) > 1
            assert len(findings.panels) == kind().resolve(known).panels(known)
            given += 1
    assert given >= 6


@pytest.mark.parametrize("name", sorted(zoo()))
def test_defaults_can_be_given(name):
    known = zoo_recorder(name).facts
    defaults = (default_explanation_method, default_similarity_method, default_pair_method)
    for chosen in (default(known) for default in defaults):
        if chosen is None:
            assert not known.classes
            continue
        assert not type(chosen).refusal(known)
        assert chosen == chosen.resolve(known)
        assert chosen.name != "transformer_attribution"


@pytest.mark.parametrize(
    ("name", "for_a_class", "for_a_similarity", "for_a_pair"),
    [
        ("vit", FullGrad, AttentionRelevance, AttentionRelevance),
        ("vit-avg", FullGrad, AttentionRelevance, PooledDecomposition),
        ("dino", Rollout, AttentionRelevance, AttentionRelevance),
        ("swin", GradCam, PooledDecomposition, PooledDecomposition),
        ("xcit", GradCam, GradCam, GradCam),
        ("coat", GradCam, GradCam, GradCam),
        ("siglip", GradCam, GradCam, GradCam),
        ("resnet", GradCam, PooledDecomposition, PooledDecomposition),
    ],
)
def test_defaults_by_family(name, for_a_class, for_a_similarity, for_a_pair):
    known = zoo_recorder(name).facts
    assert type(default_explanation_method(known)) is for_a_class
    assert type(default_similarity_method(known)) is for_a_similarity
    assert type(default_pair_method(known)) is for_a_pair


def test_a_headless_cnn_has_no_default_of_explain():
    nothing = Refusals(readout="no attention", matrix="no attention", relevance="no attention")
    assert default_explanation_method(facts(2, 2, classes=0, refusals=nothing)) is None


def test_what_a_pair_can_be_asked_takes_a_similarity():
    for method in PAIR_METHODS:
        if issubclass(method, ExplanationMethod):
            assert method.takes_similarity, method.name


def test_resolved_methods_have_keys_of_their_own():
    known = zoo_recorder("vit-avg").facts
    keys = [m().resolve(known).key for m in EXPLANATION_METHODS if not m.refusal(known)]
    assert len(set(keys)) == len(keys)
    for key, method in zip(keys, EXPLANATION_METHODS, strict=True):
        assert key.startswith(f"{method.name}:{method.revision}(")
