import asyncio
import threading

import numpy as np
import pytest

from pairlens.v1 import common_pb2, explanation_service_pb2, model_service_pb2
from pairlens_server.errors import (
    ImageUndecodableError,
    InvalidParameterError,
    ModelNotFoundError,
    NotReadyError,
)
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.recorder import Recorder
from pairlens_server.rpc import servicers
from pairlens_server.rpc.convert_scores import embed_response
from pairlens_server.rpc.offload import LARGE_BYTES
from pairlens_server.rpc.servicers import ExplanationServicer, ModelServicer
from pairlens_server.service.commands import Timings, WarmOutcome
from pairlens_server.service.score_commands import EmbedOutcome
from tests.support import vit


class UseCases:
    """Remembers what it was asked, and answers with a refusal."""

    async def explain(self, command):
        self.command = command
        raise NotReadyError("asked")

    pair = score = embed = warm = explain


class Context:
    def __init__(self, remaining_s: float | None):
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s

    def invocation_metadata(self):
        return (("user-agent", "grpc"), ("pairlens-client", "indexer"))

    def peer(self) -> str:
        return "ipv4:10.0.0.7:51234"


IMAGE = common_pb2.Image(inline=b"file")
REQUESTS = {
    "Explain": explanation_service_pb2.ExplainRequest(model="m", image=IMAGE),
    "PairSimilarity": explanation_service_pb2.PairSimilarityRequest(model="m", query=IMAGE),
    "ScoreSaliency": explanation_service_pb2.ScoreSaliencyRequest(
        model="m", image=IMAGE, method={"rollout": {}}
    ),
    "Embed": explanation_service_pb2.EmbedRequest(model="m", images=[IMAGE]),
    "Warm": explanation_service_pb2.WarmRequest(model="m", images=[IMAGE]),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("remaining_s", [None, 0.0, 30.0])
async def test_the_caller_and_its_deadline_in_event_loop_time(name, remaining_s):
    use_cases = UseCases()
    with pytest.raises(NotReadyError):
        await getattr(ExplanationServicer(use_cases), name)(REQUESTS[name], Context(remaining_s))
    assert use_cases.command.client == "indexer"
    deadline_s = use_cases.command.deadline_s
    if remaining_s is None:
        assert deadline_s is None
    else:
        assert deadline_s == pytest.approx(asyncio.get_running_loop().time() + remaining_s, abs=1)


def embedding(values: int) -> EmbedOutcome:
    return EmbedOutcome(vit(), (np.zeros(values, np.float32),), Timings())


@pytest.mark.parametrize("large", [False, True])
async def test_the_loop_turns_while_a_large_answer_is_converted(monkeypatch, large):
    threads = []

    class Answering(UseCases):
        async def embed(self, command):
            return embedding(LARGE_BYTES // 4 if large else LARGE_BYTES // 4 - 1)

    def convert(outcome):
        threads.append(threading.current_thread())
        return embed_response(outcome)

    monkeypatch.setattr(servicers, "embed_response", convert)
    answer = await ExplanationServicer(Answering()).Embed(REQUESTS["Embed"], Context(None))
    assert len(answer.results) == 1
    assert (threads[0] is threading.current_thread()) is not large


async def test_what_is_warm():
    class Answering(UseCases):
        async def warm(self, command):
            error = ImageUndecodableError("no picture", field="images[1]")
            return WarmOutcome((True, error, False), Timings(1.0))

    answer = await ExplanationServicer(Answering()).Warm(REQUESTS["Warm"], Context(None))
    assert [r.WhichOneof("outcome") for r in answer.results] == ["warmed", "error", "warmed"]
    assert [answer.results[i].warmed.cached for i in (0, 2)] == [True, False]
    assert answer.results[1].error.message == "no picture"
    assert answer.timing.total.seconds == 1


async def test_models():
    model = vit()
    limits = model_service_pb2.Limits(max_candidates=3)
    servicer = ModelServicer(ModelRegistry([model]), lambda m: Recorder(m).facts, limits)
    listed = await servicer.ListModels(model_service_pb2.ListModelsRequest(), Context(None))
    asked = model_service_pb2.GetModelRequest(model=model.name)
    got = await servicer.GetModel(asked, Context(None))
    assert list(listed.models) == [got.model]
    assert got.limits == limits
    with pytest.raises(ModelNotFoundError):
        await servicer.GetModel(model_service_pb2.GetModelRequest(model="n"), Context(None))
    with pytest.raises(InvalidParameterError):
        await servicer.GetModel(model_service_pb2.GetModelRequest(), Context(None))
