"""Calls of every kind to a server, and what came of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
from google.protobuf.message import Message

from tests.contract.support import png
from tests.faults.calls import BYPASS, Caller, Embed, Explain, Pair, inline

VIT, RESNET = "tiny-vit", "tiny-resnet"


class Traffic:
    """Calls replicas, counting what it was answered.

    Args:
        callers: Of each replica, two at least.

    Attributes:
        codes: Of answers, by name of the RPC and of the status code.
    """

    def __init__(self, *callers: Caller):
        self.codes: Counter[tuple[str, str]] = Counter()
        self._callers = callers
        self._numbers = count()
        self._lock = threading.Lock()

    def round(self) -> None:
        """Calls of each kind: cold, warm, and at a replica that finds what the first one did."""
        picture, other = (png(next(self._numbers)) for _ in range(2))
        for request in _requests(picture, other):
            for caller in (self._callers[0], *self._callers):
                self._send(caller, request)

    def flood(self, calls: int) -> None:
        """Many calls at once to the first replica, of more work than may wait."""
        picture = png(next(self._numbers))
        request = Explain(model=VIT, image=inline(picture), method={"occlusion": {}}, cache=BYPASS)
        with ThreadPoolExecutor(calls) as pool:
            list(pool.map(lambda _: self._send(self._callers[0], request), range(calls)))

    def _send(self, caller: Caller, request: Message) -> None:
        name = type(request).__name__.removesuffix("Request")
        try:
            caller.send(request)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        with self._lock:
            self.codes[name, code] += 1


def _requests(picture: bytes, other: bytes) -> Iterator[Message]:
    for method in ("raw_attention", "rollout", "grad_cam"):
        yield Explain(model=VIT, image=inline(picture), method={method: {}})
    yield Explain(
        model=RESNET,
        image=inline(picture),
        method={"grad_cam": {}},
        rendering={"overlay": True},
    )
    yield Pair(model=VIT, query=inline(picture), candidates=[inline(other)])
    yield Embed(model=RESNET, images=[inline(other)])
    # What callers get wrong.
    yield Explain(model="nobody", image=inline(picture), method={"rollout": {}})
    yield Explain(model=VIT, image=inline(b"no picture"), method={"rollout": {}})
    yield Explain(model=RESNET, image=inline(picture), method={"rollout": {}})
