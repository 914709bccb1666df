"""One call of one RPC, made of a seed, and kept in a file if something came of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from google.protobuf import message_factory
from google.protobuf.message import Message

from pairlens.v1 import (
    admin_service_pb2,
    common_pb2,
    explanation_service_pb2,
    image_service_pb2,
    methods_pb2,
    metrics_pb2,
    model_service_pb2,
)
from tests.fuzz.messages import MODELS, change, fresh
from tests.fuzz.pictures import picture, whole

MAX_REQUEST_BYTES = 2_000_000
"""What the server that is fuzzed takes."""

DATA_TOKEN = "fuzz-data-token-0001"
ADMIN_TOKEN = "fuzz-admin-token-0001"

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (explanation_service_pb2, model_service_pb2, image_service_pb2, admin_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every RPC of the contract, by path."""

_EXPLAIN = "/pairlens.v1.ExplanationService/Explain"
_PAIR = "/pairlens.v1.ExplanationService/PairSimilarity"
_SCORE = "/pairlens.v1.ExplanationService/ScoreSaliency"
_EMBED = "/pairlens.v1.ExplanationService/Embed"
_WARM = "/pairlens.v1.ExplanationService/Warm"
_DRAIN = "/pairlens.v1.AdminService/Drain"
_UPLOAD = "/pairlens.v1.ImageService/UploadImages"
# Where the code is, calls go.
_PATHS = (*METHODS, *(_EXPLAIN, _PAIR, _SCORE) * 4, *(_EMBED, _WARM, _UPLOAD) * 2)


@dataclass(frozen=True)
class Case:
    """A call.

    Attributes:
        path: "/package.Service/Method".
        data: The request as it goes over the wire.
        metadata: Beside it; binary values under keys that end in "-bin".
        timeout_s: Of the call.
        cancel_s: When the client gives up by itself; 0 for never.
    """

    path: str
    data: bytes
    metadata: tuple[tuple[str, str | bytes], ...]
    timeout_s: float
    cancel_s: float = 0.0

    def save(self, path: Path, **about: object) -> None:
        """Write a file to throw it again by."""
        fields = asdict(self) | about
        path.write_text(json.dumps(fields, default=_as_text, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Case:
        """Of a file that `save` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        metadata = tuple((key, _as_value(key, value)) for key, value in fields["metadata"])
        data = base64.b64decode(fields["data"])
        return cls(fields["path"], data, metadata, fields["timeout_s"], fields["cancel_s"])


def _as_text(value: object) -> str:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


def _as_value(key: str, value: str) -> str | bytes:
    return base64.b64decode(value) if key.endswith("-bin") else value


def request_type(path: str) -> type[Message]:
    """Of the request of an RPC."""
    return message_factory.GetMessageClass(METHODS[path].input_type)


def answer_type(path: str) -> type[Message]:
    """Of its answer."""
    return message_factory.GetMessageClass(METHODS[path].output_type)


def numbered(seed: str, count: int) -> Iterator[Case]:
    """Cases of a seed, every fourth about its picture."""
    for number in range(count):
        random = Random(f"{seed}/{number}")
        yield picture_case(random) if number % 4 == 0 else case_of(random)


def case_of(random: Random) -> Case:
    """A call, as random as wanted."""
    path = random.choice(_PATHS)
    data = _request(random, path).SerializeToString()
    if random.random() < 0.25:
        data = _damaged_wire(random, data)
    if random.random() < 0.002:
        # A field of a newer contract, which is longer than anything taken.
        data += b"\xc2\x3e\x80\x89\x7a" + bytes(MAX_REQUEST_BYTES)
    cancel_s = random.choice((0.001, 0.01, 0.1)) if random.random() < 0.02 else 0.0
    timeout_s = random.choice((0.02, 0.3, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0))
    return Case(path, data, _metadata(random, path), timeout_s, cancel_s)


def picture_case(random: Random) -> Case:
    """A call that is right but for its picture."""
    image = common_pb2.Image(inline=picture(random))
    model = random.choice(MODELS)
    kind = random.random()
    if kind < 0.5:
        # Of the methods, those that look at the picture itself.
        methods = (
            None,
            methods_pb2.ExplanationMethod(semantic_attention={}),
            methods_pb2.ExplanationMethod(grad_cam={}),
        )
        drawn = common_pb2.Rendering(overlay=random.random() < 0.5, upsampled=random.random() < 0.2)
        request: Message = explanation_service_pb2.ExplainRequest(
            model=model, image=image, method=random.choice(methods), rendering=drawn
        )
        path = _EXPLAIN
    elif kind < 0.8:
        images = [image, common_pb2.Image(inline=random.choice(whole()))]
        request, path = explanation_service_pb2.EmbedRequest(model=model, images=images), _EMBED
    else:
        uploads = [image_service_pb2.ImageUpload(data=image.inline)]
        request, path = image_service_pb2.UploadImagesRequest(images=uploads), _UPLOAD
    return Case(path, request.SerializeToString(), _bearer(DATA_TOKEN), 10.0)


def _request(random: Random, path: str) -> Message:
    if random.random() < 0.25:
        return fresh(random, request_type(path))
    request = _right(random, path)
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        change(random, request)
    return request


def _right(random: Random, path: str) -> Message:
    """A request that could be answered, or one of whose parts fit together, before it changes."""
    request = request_type(path)()
    fields = {field.name: getattr(request, field.name) for field in request.DESCRIPTOR.fields}
    if "model" in fields:
        setattr(request, "model", random.choice(MODELS))  # noqa: B010
    for name in ("image", "query"):
        if name in fields:
            fields[name].inline = random.choice(whole())
    for name in ("candidates", "images"):
        if name in fields:
            for _ in range(random.choice((1, 2))):
                _fill_picture(random, fields[name].add())
    ways = [fields[name] for name in ("method", "pair_method") if name in fields]
    if ways and random.random() < 0.8:
        _choose(random, random.choice(ways))
    for name in ("methods", "metrics"):
        if name in fields:
            _choose(random, fields[name].add())
    return request


def _fill_picture(random: Random, message: Message) -> None:
    name = "data" if isinstance(message, image_service_pb2.ImageUpload) else "inline"
    setattr(message, name, random.choice(whole()))


def _choose(random: Random, message: Message) -> None:
    """One member of a oneof, with its defaults."""
    known = (methods_pb2.ExplanationMethod, methods_pb2.PairMethod, metrics_pb2.Metric)
    assert isinstance(message, known)
    getattr(message, random.choice(message.DESCRIPTOR.fields).name).SetInParent()


def _damaged_wire(random: Random, data: bytes) -> bytes:
    kind = random.randrange(6)
    at = random.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + random.randbytes(random.choice((1, 2, 9))) + data[at:]
    if kind == 2:
        # A length or a number that never ends.
        return data[:at] + b"\xff" * random.choice((1, 4, 9, 10, 11)) + data[at:]
    if kind == 3:
        # Fields again, of this or of another message.
        return data + fresh(random, random.choice(_ALL_REQUESTS)).SerializeToString()
    if kind == 4:
        # Groups in groups, which protobuf reads by recursion.
        return data + b"\x0b" * random.choice((1, 50, 200, 100_000))
    changed = bytearray(data)
    for _ in range(random.choice((1, 4))):
        if changed:
            changed[random.randrange(min(len(changed), 200))] ^= 1 << random.randrange(8)
    return bytes(changed)


_ALL_REQUESTS = tuple(request_type(path) for path in METHODS)


def _bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)


def _metadata(random: Random, path: str) -> tuple[tuple[str, str | bytes], ...]:
    # An administrator's Drain would end the server.
    admin = path.startswith("/pairlens.v1.AdminService/") and path != _DRAIN
    metadata = _bearer(ADMIN_TOKEN if admin and random.random() < 0.7 else DATA_TOKEN)
    if random.random() < 0.05:
        wrong = ("", "Bearer", "Bearer x", "Basic eDp5", f"bearer  {DATA_TOKEN}", "Bearer " * 400)
        metadata = (("authorization", random.choice(wrong)),) * random.choice((0, 1, 2))
    if random.random() < 0.2:
        text = random.choice(("", "a", "a,b", "~" * 100, "~" * 5000, " x ", "%00", "0-1-2-3"))
        keys = ("pairlens-client", "x-request-id", "traceparent", "tracestate", "baggage", "x-y")
        metadata += ((random.choice(keys), text),)
    if random.random() < 0.1:
        metadata += (("grpc-trace-bin", random.randbytes(random.choice((0, 1, 29, 200)))),)
    return metadata
