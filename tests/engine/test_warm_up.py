"""The warm-up: what callers will ask for has run before anybody does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.engine.entry import Chunk
from pairlens_server.engine.warm_up import warm_up
from pairlens_server.engine.worker import DeviceWorker, Job
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import resnet, vit

PROBING = {"score_cam", "integrated_gradients", "occlusion"}


class Watched(DeviceWorker):
    """Notes what is recorded of each model."""

    def __init__(self, models: Sequence[LoadedModel]):
        super().__init__(models)
        self.recorded: dict[str, set[Activation]] = {model.name: set() for model in models}
        self.copies: dict[str, list[int]] = {model.name: [] for model in models}

    def run(self, model: LoadedModel, jobs: Sequence[Job], staged: Any = None) -> Any:
        for _, activations in jobs:
            self.recorded[model.name].update(activations)
        return super().run(model, jobs, staged)

    def run_chunk(self, model: LoadedModel, pixels: Any, chunk: Chunk) -> Any:
        self.copies[model.name].append(chunk.stop - chunk.start)
        return super().run_chunk(model, pixels, chunk)


async def test_every_method_of_every_model_has_been_recorded():
    made: list[Watched] = []
    models = [vit(), vit(pooling="token", classes=0), resnet()]
    engine = Engine(EngineSettings(), make_backend=lambda m: made.append(Watched(m)) or made[0])
    loaded = await engine.start(lambda: models)
    await warm_up(engine, loaded)
    for model in loaded:
        facts, recorded = engine.facts(model), made[0].recorded[model.name]
        kinds = {type(activation) for activation in recorded}
        similarity = Similarity.to(torch.ones(1, facts.embedding_size))
        given = [method for method in EXPLANATION_METHODS if not method.refusal(facts)]
        assert len(given) > 5
        for method in given:
            target = ClassLogit(0) if method.takes_class and facts.classes else similarity
            wanted = method().resolve(facts).needs(facts, target)
            if method.takes_class or method.takes_similarity:
                # Targets differ from call to call; the passes for them do not.
                assert {type(activation) for activation in wanted} <= kinds, method.name
            else:
                assert set(wanted) <= recorded, method.name
        if not Correspondence.refusal(facts):
            assert set(Correspondence().pair_needs()) <= recorded
        # One changed picture each, not the hundreds that they take.
        probing = [m.name for m in given if m.name in PROBING]
        assert len(probing) >= 2
        assert made[0].copies[model.name] == [1] * len(probing)
    await engine.stop()


async def test_a_model_that_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch):
    model = resnet()
    engine = Engine(EngineSettings())
    loaded = await engine.start(lambda: [model])

    def fail(*_: object) -> None:
        raise ValueError("no pass")

    model.network.conv1[0].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="no pass"):
        await warm_up(engine, loaded)
    await engine.stop()
