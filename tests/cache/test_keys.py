import dataclasses

import pytest
import torch

from pairlens_server.cache.keys import (
    activation_key,
    image_key,
    is_image_file,
    kind_of,
    kind_prefixes,
    model_prefix,
    picture_key,
)
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.stats import CacheKind
from pairlens_server.methods.cam import ScoreCam
from pairlens_server.methods.perturbation import Occlusion
from pairlens_server.models.preprocessing import ResizeMode
from pairlens_server.recording.baselines import Fill
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FusedAttention,
    GradientRule,
)
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import resnet

HALF = Precision.HALF


def test_every_part_of_what_a_value_depends_on_is_in_the_key():
    model = resnet(classes=2)
    other_weights = dataclasses.replace(model, fingerprint="other")
    cropped = dataclasses.replace(model.preprocessing, resize_mode=ResizeMode.CROP)
    other_input = dataclasses.replace(model, preprocessing=cropped)
    renamed = dataclasses.replace(model, name="another name")
    keys = {
        activation_key(model, Embedding(), "aa", HALF),
        activation_key(other_weights, Embedding(), "aa", HALF),
        activation_key(other_input, Embedding(), "aa", HALF),
        activation_key(model, FusedAttention(0), "aa", HALF),
        activation_key(model, FusedAttention(1), "aa", HALF),
        activation_key(model, Embedding(), "bb", HALF),
        activation_key(model, Embedding(), "aa", Precision.FLOAT32),
    }
    assert len(keys) == 7
    assert activation_key(renamed, Embedding(), "aa", HALF) in keys


def test_targets_rules_and_parameters_are_in_the_key():
    model = resnet(classes=2)
    one, other = (Similarity.to(torch.tensor([row])) for row in ([1.0, 0.0], [0.0, 1.0]))
    activations = [
        FeatureGradient("layer4.0", ClassLogit(None)),
        FeatureGradient("layer4.0", ClassLogit(0)),
        FeatureGradient("layer4.0", ClassLogit(1)),
        FeatureGradient("layer4.0", one),
        FeatureGradient("layer4.0", other),
        FeatureGradient("layer3.0", one),
        FeatureGradient("layer4.0", one, GradientRule.LIBRA),
        Occlusion(window=1).probed(one),
        Occlusion(window=3).probed(one),
        Occlusion(window=3, fill=Fill.NOISE, seed=0).probed(one),
        Occlusion(window=3, fill=Fill.NOISE, seed=1).probed(one),
        ScoreCam("layer4.0").probed(one),
    ]
    assert len({activation_key(model, a, "aa", HALF) for a in activations}) == len(activations)


def test_the_length_of_an_embedding_does_not_matter_to_a_similarity():
    short, long = (Similarity.to(torch.tensor([[3.0, 4.0]]) * scale) for scale in (1.0, 10.0))
    assert short == long
    assert short.key == long.key


def test_a_models_keys_share_a_beginning_that_others_have_not():
    model = resnet(classes=2)
    other = dataclasses.replace(model, fingerprint=model.fingerprint[:-1])
    prefix = model_prefix(model.fingerprint)
    assert activation_key(model, Embedding(), "aa", HALF).startswith(prefix)
    assert not activation_key(other, Embedding(), "aa", HALF).startswith(prefix)
    assert not activation_key(model, Embedding(), "aa", HALF).startswith(model_prefix("ab"))


@pytest.mark.parametrize(
    ("key", "kind", "is_file"),
    [
        (f"{model_prefix('ff')}0", CacheKind.ACTIVATION, False),
        (picture_key("ab"), CacheKind.IMAGE, False),
        (image_key("ab"), CacheKind.IMAGE, True),
    ],
)
def test_the_kind_stands_in_the_key(key: str, kind: CacheKind, is_file: bool):
    assert kind_of(key) is kind
    assert is_image_file(key) is is_file
    assert [k for k in CacheKind if key.startswith(kind_prefixes(k))] == [kind]
