"""Pictures that are known by their hash alone."""

import hashlib
import json

import numpy as np
import pytest
from google.rpc import error_details_pb2

from pairlens import (
    Client,
    EncodedImage,
    ImageFileError,
    ImageMissingError,
    InvalidParameterError,
    MissingImage,
    PairMatch,
    Rendering,
    SimilarTo,
    StoredImage,
    UnimplementedError,
    _failures,
)
from pairlens._json import to_json
from pairlens.v1 import common_pb2, explanation_service_pb2
from tests.client.scripted import Running, Scripted, png
from tests.client.scripted_images import missing_status

EXPLAIN = explanation_service_pb2.ExplainRequest


def stored(data: bytes, name: str = "") -> StoredImage:
    return StoredImage(hashlib.sha256(data).hexdigest(), len(data), name)


def test_a_hash_is_checked():
    digest = hashlib.sha256(b"a").hexdigest()
    assert StoredImage(digest.upper(), 1) == StoredImage(digest, 1)
    for bad in ("", digest[1:], digest + "0", "g" * 64, digest.encode(), None):
        with pytest.raises(InvalidParameterError, match="sha256 is 64 hex digits"):
            StoredImage(bad, 1)
    for bad in (0, -1, 2**64, 1.0, True, "1"):
        with pytest.raises(InvalidParameterError, match="size_bytes is"):
            StoredImage(digest, bad)


def test_a_file_has_the_same_hash():
    image = EncodedImage(png(), "cat.png")
    assert (image.sha256, image.size_bytes) == (stored(png()).sha256, len(png()))


def test_it_stands_for_a_picture_in_every_call(client: Client, service: Scripted):
    service.images.put(png())
    service.images.put(png(30, 20))
    cat, dog = stored(png(), "cat.png"), stored(png(30, 20))
    assert client.explain(cat, model="vit").geometry.image_width == 60
    (match,) = client.pair_similarity(cat, dog, model="cnn").matches
    assert (match.query.image, match.candidate.image) == (cat, dog)
    assert client.explain(cat, model="cnn", method="grad_cam", target=SimilarTo([dog])).target
    scores = client.score_saliency(
        cat, model="cnn", method="grad_cam", target=SimilarTo(dog), sides="both"
    )
    assert (scores.image, scores.partner.image) == (cat, dog)
    assert client.embed([cat, dog]).vectors[:, 0].tolist() == [len(png()), len(png(30, 20))]
    assert client.warm([cat, dog], model="vit").cached == (False, False)
    assert service.bytes_received() < 2500
    assert not [call for call in service.calls if "Missing" in type(call).__name__]


def test_the_server_draws_and_nobody_else(client: Client, service: Scripted, tmp_path):
    service.images.put(png())
    service.overlay_png = png(16, 16)
    made = client.explain(stored(png(), "cat.png"), model="vit", render=Rendering(max_side=16))
    assert made.overlay(max_side=16).size == (16, 16)
    made.save(tmp_path / "map.npy")
    assert np.load(tmp_path / "map.npy").shape == (2, 3)
    with pytest.raises(ImageFileError, match=r"cat\.png: its file is not here, only its hash"):
        made.overlay()
    with pytest.raises(ImageFileError, match=r"ask the server to draw \(render=...\)"):
        made.save(tmp_path / "map.png")
    assert made._repr_png_() is None  # a notebook shows the text
    assert json.loads(json.dumps(to_json(made.image))) == "cat.png"


def test_notebooks_show_the_text_of_pairs(client: Client, service: Scripted):
    service.images.put(png())
    results = client.pair_similarity(stored(png()), png(), model="cnn")
    assert isinstance(results[0], PairMatch)
    assert results._repr_png_() is None
    assert results[0]._repr_png_() is None
    assert results[0].candidate._repr_png_()


def test_one_that_is_not_there_is_named(client: Client, service: Scripted):
    service.images.put(png())
    cat, dog = stored(png()), stored(png(30, 20))
    with pytest.raises(ImageMissingError, match="the picture is not here") as caught:
        client.pair_similarity(cat, [cat, dog, png(9)], model="cnn")
    assert caught.value.missing == (MissingImage("candidates[1]", dog.sha256, dog.size_bytes),)
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "IMAGE_MISSING")
    assert len(service.calls) == 1  # nothing could be done about it


def test_only_pictures_whose_files_are_not_here_are_named(client: Client, service: Scripted):
    large, dog = png(110, 110, noise=True), stored(png(30, 20))
    client.explain(large, model="vit")
    service.images.evict()
    with pytest.raises(ImageMissingError) as caught:
        client.pair_similarity(large, [dog], model="cnn")
    assert [image.sha256 for image in caught.value.missing] == [dog.sha256]
    service.images.put(png(30, 20))
    assert len(client.pair_similarity(large, [dog], model="cnn").matches) == 1


def test_a_stored_picture_whose_file_is_in_the_call(client: Client, service: Scripted):
    large = png(110, 110, noise=True)
    assert client.pair_similarity(stored(large), large, model="cnn").matches


def test_an_old_server_takes_none():
    old = Running(old=True)
    try:
        with Client(old.target, timeout=10) as client:
            with pytest.raises(InvalidParameterError, match="image is empty"):
                client.explain(stored(png()), model="vit")
            with pytest.raises(UnimplementedError, match="does not offer this call"):
                client.cache_stats()
    finally:
        old.stop()


def test_at_most_16_are_named_and_odd_ones_left_out():
    digest = common_pb2.Digest(sha256=bytes(32), size_bytes=7)
    made = _failures.from_status(missing_status([(f"images[{n}]", digest) for n in range(20)]))
    assert isinstance(made, ImageMissingError)
    assert len(made.missing) == 16
    assert made.missing[15] == MissingImage("images[15]", "0" * 64, 7)
    odd = missing_status([("image", digest)])
    failure = odd.details[-1]
    unmet = error_details_pb2.PreconditionFailure()
    failure.Unpack(unmet)
    unmet.violations.add(type="OTHER", subject="images/00/1", description="x")
    unmet.violations.add(type="MISSING", subject="models/00/1", description="x")
    unmet.violations.add(type="MISSING", subject="images/00", description="x")
    failure.Pack(unmet)
    assert _failures.from_status(odd).missing == (MissingImage("image", "0" * 64, 7),)
