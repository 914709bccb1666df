import dataclasses

from pairlens_server.cache.keys import activation_key
from pairlens_server.models.preprocessing import ResizeMode
from pairlens_server.recording.activations import Embedding, MeanAttention
from tests.support import resnet


def test_every_part_of_what_a_value_depends_on_is_in_the_key():
    model = resnet(classes=2)
    other_weights = dataclasses.replace(model, fingerprint="other")
    cropped = dataclasses.replace(model.preprocessing, resize_mode=ResizeMode.CROP)
    other_input = dataclasses.replace(model, preprocessing=cropped)
    renamed = dataclasses.replace(model, name="another name")
    keys = {
        activation_key(model, Embedding(), "aa"),
        activation_key(other_weights, Embedding(), "aa"),
        activation_key(other_input, Embedding(), "aa"),
        activation_key(model, MeanAttention(0), "aa"),
        activation_key(model, MeanAttention(1), "aa"),
        activation_key(model, Embedding(), "bb"),
    }
    assert len(keys) == 6
    assert activation_key(renamed, Embedding(), "aa") in keys
