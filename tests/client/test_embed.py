from collections.abc import Iterator

import numpy as np
import pytest

from pairlens import (
    Client,
    ImageFileError,
    ImageUndecodableError,
    InternalError,
    InvalidParameterError,
    MalformedResponseError,
    ModelNotFoundError,
    RequestTooLargeError,
    _embed_codec,
)
from pairlens._chunks import chunks
from pairlens._image_fields import inline
from pairlens._images import EncodedImage
from pairlens.v1 import explanation_service_pb2, model_service_pb2
from tests.client.scripted import Running, Scripted, fails, png
from tests.client.scripted_scores import EMBEDDING_SIZE

EmbedRequest = explanation_service_pb2.EmbedRequest


def sizes(service: Scripted) -> list[int]:
    return [len(request.images) for request in service.requests(EmbedRequest)]


def test_many_pictures_travel_in_the_requests_that_the_server_takes(
    client: Client, service: Scripted
):
    pictures = [png(10 + index, 20) for index in range(9)]
    embeddings = client.embed(pictures)
    assert sizes(service) == [4, 4, 1]  # Limits.max_candidates is 4
    assert {request.model for request in service.requests(EmbedRequest)} == {"vit"}
    assert len(embeddings) == 9
    assert embeddings.vectors.dtype == np.float32
    assert not embeddings.vectors.flags.writeable
    np.testing.assert_array_equal(embeddings.vectors[:, 0], [len(picture) for picture in pictures])
    assert embeddings.failures == {}
    assert embeddings.provenance.model == "vit"
    assert embeddings.timing.total_s == 3 * 1.5
    assert embeddings.timing.images == 3 * 2


def test_limits_are_asked_for_once(client: Client, service: Scripted):
    for _ in range(3):
        client.embed(png(), model="cnn")
    assert len(service.requests(model_service_pb2.GetModelRequest)) == 1


def test_a_broken_picture_leaves_the_others_alone(client: Client, service: Scripted):
    broken = [0, 5]
    pictures = [b"no picture" if index in broken else png() for index in range(6)]
    embeddings = client.embed(pictures, model="vit")
    assert sorted(embeddings.failures) == broken
    assert isinstance(embeddings.failures[5], ImageUndecodableError)
    assert embeddings.failures[5].field == "images[1]"  # of its request
    assert np.isnan(embeddings.vectors[broken]).all()
    assert np.isfinite(np.delete(embeddings.vectors, broken, axis=0)).all()


def test_requests_stay_within_their_bytes():
    images = [EncodedImage(bytes(size)) for size in (600, 600, 600, 1900, 100, 100)]
    made = list(chunks(images, 8, 2000))
    assert [[len(image.data) for image in chunk] for chunk in made] == [
        [600, 600],
        [600],
        [1900],
        [100, 100],
    ]
    for chunk in made[:2] + made[3:]:
        assert _embed_codec.request(chunk, "", "default", inline).ByteSize() <= 2000


def test_a_picture_beyond_a_requests_size_fails_alone(service: Scripted, server: Running):
    large = png(600, 600, noise=True)  # about 1.1 MB; Limits.max_request_bytes is 2 ** 20
    with Client(server.target, timeout=10, max_message_bytes=2**20) as client:
        embeddings = client.embed([png(), large, png()])
        assert sizes(service) == [1, 1]
        assert isinstance(embeddings.failures[1], RequestTooLargeError)
        assert np.isfinite(embeddings.vectors[[0, 2]]).all()
        with pytest.raises(RequestTooLargeError):
            client.embed(large)


def test_pictures_are_read_when_their_turn_comes(client: Client, service: Scripted):
    read: list[int] = []

    def pictures() -> Iterator[bytes]:
        for _ in range(6):
            read.append(len(service.requests(EmbedRequest)))
            yield png()

    client.embed(pictures())
    # A request's first picture is read before the request before it is sent.
    assert read == [0, 0, 0, 0, 0, 1]


def test_nothing_to_embed_is_a_mistake(client: Client):
    with pytest.raises(InvalidParameterError, match="at least one picture") as caught:
        client.embed([])
    assert caught.value.field == "images"


def test_a_path_that_cannot_be_read_is_named(client: Client, tmp_path):
    with pytest.raises(ImageFileError) as caught:
        client.embed([png(), tmp_path / "none.png"])
    assert caught.value.field == "images[1]"


def test_an_unknown_model(client: Client):
    with pytest.raises(ModelNotFoundError):
        client.embed(png(), model="bert")


def test_a_failed_request_fails_the_call(client: Client, service: Scripted):
    service.script.extend([lambda _: None, lambda _: None, fails("INTERNAL")])
    with pytest.raises(InternalError):
        client.embed(png())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda response: response.results.pop(), "0 results for 1 pictures"),
        (lambda response: response.results[0].Clear(), "neither an embedding nor an error"),
        (lambda response: response.results[0].embedding.shape.append(1), "1 sides"),
    ],
)
def test_an_answer_that_breaks_the_contract(
    service: Scripted, break_it, message: str, client: Client
):
    request = EmbedRequest(model="vit", images=[{"inline": png()}])

    class Context:
        def time_remaining(self) -> float:
            return 1.0

        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ()

    response = service.Embed(request, Context())
    break_it(response)
    with pytest.raises(MalformedResponseError, match=message):
        _embed_codec.Collected(EMBEDDING_SIZE).add(response, 1)


def test_an_embedding_of_another_size_is_malformed(service: Scripted, client: Client):
    service.models[0].embedding_size = 7
    with pytest.raises(MalformedResponseError, match="5 values and not 7"):
        client.embed(png())
