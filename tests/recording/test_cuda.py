"""The same maps on a GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.recording.activations import evaluate, primitives
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import pixels, zoo_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NAMES = ("vit", "vit-avg", "deit-distilled", "dinov3", "swin", "convit", "xcit", "coat", "resnet")


def on_gpu(model):
    device = torch.device("cuda", 0)
    projection = None if model.projection is None else model.projection.to(device)
    return replace(model, network=model.network.to(device), projection=projection, device=device)


def found(model, method, target, images):
    recorder = Recorder(model)
    resolved = method().resolve(recorder.facts)
    needed = resolved.needs(recorder.facts, target)
    wanted = {p: [0, 1] for p in primitives(needed, recorder.facts)}
    recorded = recorder.record(images, wanted) if wanted else {}
    values = {a: evaluate(a, recorded, recorder.facts)[0].cpu() for a in needed}
    probe = resolved.probe(values, recorder.facts, target) if target is not None else None
    if probe is not None:
        clean = images[0].to(model.device)
        parts = [
            probe.run(recorder, clean, start, min(start + 8, probe.steps)).cpu()
            for start in range(0, probe.steps, 8)
        ]
        values[resolved.probed(target)] = probe.combine(parts)
    return resolved.explain(values, recorder.facts, target).heatmap


@pytest.mark.parametrize("name", NAMES)
def test_every_method_gives_the_same_map(name):
    cpu = zoo_model(name)
    images = pixels(cpu, 2)
    facts = Recorder(cpu).facts
    expected = {}
    for method in EXPLANATION_METHODS:
        if method.refusal(facts):
            continue
        target = None
        if method.takes_class and facts.classes:
            target = ClassLogit(1)
        elif method.takes_similarity:
            target = Similarity.to(torch.ones(1, facts.embedding_size))
        expected[method] = (target, found(cpu, method, target, images))
    gpu = on_gpu(cpu)
    try:
        for method, (target, heatmap) in expected.items():
            other = found(gpu, method, target, images)
            scale = heatmap.abs().max().clamp(min=1e-12)
            assert ((other - heatmap).abs().max() / scale) < 2e-2, method.name
    finally:
        cpu.network.to("cpu")
        if cpu.projection is not None:
            cpu.projection.to("cpu")
