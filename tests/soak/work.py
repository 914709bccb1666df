"""The calls of the mixed load, and what each may end with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from pairlens import (
    Client,
    DeadlineExceededError,
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    ModelNotFoundError,
    PairlensError,
)
from pairlens.models import MethodKind
from pairlens.options import CachePolicy, Rendering
from pairlens.targets import SimilarTo
from tests.contract.support import noise_png, png
from tests.faults.calls import Caller, Embed, inline

STEADY = ("tiny-vit", "tiny-resnet")
CHANGING = "tiny-vit-cls"
"""A model that is replaced by one with other weights while it is called."""

COMING_AND_GOING = "tiny-deit"

_POLICIES: tuple[CachePolicy, ...] = ("default", "default", "default", "bypass", "refresh")
_PICTURES = 300
_SHORT_S = 0.004
_Choices = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """One kind of call.

    Attributes:
        name: For the report.
        weight: How often it is made, beside the others.
        make: Makes it.
        expected: Errors that it may end with.
        always: Whether it must end with one of them.
    """

    name: str
    weight: int
    make: Callable[[], object]
    expected: tuple[type[PairlensError], ...] = ()
    always: bool = False


class Worker:
    """One caller with its own random choices.

    Args:
        client: Of the replicas.
        address: Of one of them, for calls that the SDK cannot make.
        choices: Pairs of a model and a method that can be asked for without a target, by kind.
        seed: Of the choices.
    """

    _fresh = itertools.count(10**6)

    def __init__(
        self, client: Client, address: str, choices: dict[MethodKind, _Choices], seed: int
    ):
        self._client = client
        self._caller = Caller(address, f"soak-{seed}")
        self._choices = choices
        self._random = random.Random(seed)
        calls = self._calls()
        self._calls_made = calls, [call.weight for call in calls]

    def close(self) -> None:
        """Close what is its own."""
        self._caller.channel.close()

    def choose(self) -> Call:
        """The next call."""
        calls, weights = self._calls_made
        return self._random.choices(calls, weights)[0]

    def _calls(self) -> list[Call]:
        wrong_model = (ModelNotFoundError,)
        return [
            Call("explain", 20, self._explain),
            Call("explain by similarity", 4, self._explain_similarity),
            Call("explain, drawn", 4, self._explain_drawn),
            Call("pair", 12, self._pair),
            Call("score", 3, self._score),
            Call("embed", 10, self._embed),
            Call("warm", 3, self._warm),
            Call("upload", 3, self._upload),
            Call("model that changes", 4, self._changing),
            Call("model that comes and goes", 3, self._coming_and_going, wrong_model),
            Call("cancelled", 5, self._cancelled),
            Call("hurried", 5, self._hurried, (DeadlineExceededError,)),
            Call("unknown model", 2, self._unknown_model, wrong_model, always=True),
            Call("unknown method", 2, self._unknown_method, (InvalidParameterError,), always=True),
            Call("broken picture", 2, self._broken, (ImageUndecodableError,), always=True),
            Call("cache statistics", 1, lambda: self._client.cache_stats()),
        ]

    def _picture(self) -> bytes:
        return png(self._random.randrange(_PICTURES))

    def _pictures(self, count: int) -> list[bytes]:
        return [png(seed) for seed in self._random.sample(range(_PICTURES), count)]

    def _policy(self) -> CachePolicy:
        return self._random.choice(_POLICIES)

    def _explain(self) -> object:
        model, method = self._random.choice(self._choices[MethodKind.EXPLANATION])
        policy = self._policy()
        return self._client.explain(self._picture(), model=model, method=method, cache=policy)

    def _explain_similarity(self) -> object:
        query, *gallery = self._pictures(4)
        target, model = SimilarTo(gallery), self._random.choice(STEADY)
        return self._client.explain(query, model=model, method="full_grad", target=target)

    def _explain_drawn(self) -> object:
        model = self._random.choice(STEADY)
        return self._client.explain(self._picture(), model=model, render=Rendering(overlay=True))

    def _pair(self) -> object:
        model, method = self._random.choice(self._choices[MethodKind.PAIR])
        query, *others = self._pictures(1 + self._random.randint(1, 8))
        return self._client.pair_similarity(
            query, others, model=model, method=method, cache=self._policy()
        )

    def _score(self) -> object:
        return self._client.score_saliency(
            self._picture(), model=self._random.choice(STEADY), method="full_grad"
        )

    def _embed(self) -> object:
        model = self._random.choice(STEADY)
        return self._client.embed(self._pictures(self._random.randint(1, 16)), model=model)

    def _warm(self) -> object:
        return self._client.warm(self._pictures(8), model=self._random.choice(STEADY))

    def _upload(self) -> object:
        # Large enough to travel by its digest, and never seen before.
        picture = noise_png(next(self._fresh), 300, 400)
        return self._client.embed(picture, model=self._random.choice(STEADY))

    def _changing(self) -> object:
        return self._client.explain(self._picture(), model=CHANGING)

    def _coming_and_going(self) -> object:
        return self._client.embed(self._picture(), model=COMING_AND_GOING)

    def _cancelled(self) -> object:
        request = Embed(model=STEADY[0], images=[inline(data) for data in self._pictures(8)])
        under_way = self._caller.begin(request)
        try:
            return under_way.result(self._random.uniform(0, 0.03))
        except grpc.FutureTimeoutError:
            return under_way.cancel()

    def _hurried(self) -> object:
        picture, model = self._picture(), self._random.choice(STEADY)
        return self._client.explain(picture, model=model, cache="bypass", timeout=_SHORT_S)

    def _unknown_model(self) -> object:
        return self._client.explain(self._picture(), model="no-such", method="rollout")

    def _unknown_method(self) -> object:
        return self._client.explain(self._picture(), model=STEADY[0], method="no_such")

    def _broken(self) -> object:
        whole = self._picture()
        return self._client.explain(whole[: len(whole) // 2], model=STEADY[0], method="full_grad")


def choices_of(client: Client) -> dict[MethodKind, _Choices]:
    """Pairs of a model and a method that answer a plain call; every one is called once."""
    picture, other = np.random.default_rng(1).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    found: dict[MethodKind, list[tuple[str, str]]] = {kind: [] for kind in MethodKind}
    for model in client.list_models():
        if model.name not in STEADY:
            continue
        for method in model.methods:
            try:
                if method.kind is MethodKind.PAIR:
                    client.pair_similarity(picture, other, model=model.name, method=method.name)
                else:
                    client.explain(picture, model=model.name, method=method.name)
            # Those that ask for a target.
            except (InvalidParameterError, MethodUnsupportedError):
                continue
            found[method.kind].append((model.name, method.name))
    assert all(found.values()), found
    return {kind: tuple(pairs) for kind, pairs in found.items()}
