import asyncio
import threading

import pytest

from pairlens.v1 import common_pb2, explanation_service_pb2, model_service_pb2
from pairlens_server.errors import InvalidParameterError, ModelNotFoundError, NotReadyError
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.recorder import Recorder
from pairlens_server.rpc import servicers
from pairlens_server.rpc.servicers import ExplanationServicer, ModelServicer
from tests.support import vit


class UseCases:
    """Remembers what it was asked, and answers with a refusal."""

    async def explain(self, command):
        self.command = command
        raise NotReadyError("asked")

    pair = score = embed = explain


class Context:
    def __init__(self, remaining_s: float | None):
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s


IMAGE = common_pb2.Image(inline=b"file")
REQUESTS = {
    "Explain": explanation_service_pb2.ExplainRequest(model="m", image=IMAGE),
    "PairSimilarity": explanation_service_pb2.PairSimilarityRequest(model="m", query=IMAGE),
    "ScoreSaliency": explanation_service_pb2.ScoreSaliencyRequest(
        model="m", image=IMAGE, method={"rollout": {}}
    ),
    "Embed": explanation_service_pb2.EmbedRequest(model="m", images=[IMAGE]),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("remaining_s", [None, 0.0, 30.0])
async def test_the_deadline_in_event_loop_time(name, remaining_s):
    use_cases = UseCases()
    with pytest.raises(NotReadyError):
        await getattr(ExplanationServicer(use_cases), name)(REQUESTS[name], Context(remaining_s))
    deadline_s = use_cases.command.deadline_s
    if remaining_s is None:
        assert deadline_s is None
    else:
        assert deadline_s == pytest.approx(asyncio.get_running_loop().time() + remaining_s, abs=1)


@pytest.mark.parametrize(
    ("name", "converter"),
    [
        ("Explain", "explain_response"),
        ("PairSimilarity", "pair_response"),
        ("ScoreSaliency", "score_response"),
        ("Embed", "embed_response"),
    ],
)
async def test_the_loop_turns_while_an_answer_is_converted(monkeypatch, name, converter):
    begun, go_on = threading.Event(), threading.Event()

    class Answering(UseCases):
        async def explain(self, command):
            return "outcome"

        pair = score = embed = explain

    def slow(outcome):
        begun.set()
        assert go_on.wait(10), "the loop stood still"
        return f"response to {outcome}"

    monkeypatch.setattr(servicers, converter, slow)
    call = asyncio.create_task(
        getattr(ExplanationServicer(Answering()), name)(REQUESTS[name], Context(None))
    )
    while not begun.is_set() and not call.done():
        await asyncio.sleep(0.001)
    go_on.set()  # only a loop that turns comes here
    assert await call == "response to outcome"


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
