"""Running a method of Explain on one picture: activations, further passes, arithmetic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pairlens_server.errors import NotFiniteError
from pairlens_server.methods.base import ExplanationMethod, Findings
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.targets import (
    ClassLogit,
    ScoreTarget,
    Similarity,
)
from pairlens_server.service.recordings import (
    AdmittedPicture,
    PictureRecorder,
    PictureRecording,
    not_finite,
    zero_embedding,
)
from pairlens_server.service.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class Explained:
    """What a method found, and the activations that it was found in."""

    findings: Findings
    recording: PictureRecording


def run_method(
    method: ExplanationMethod,
    recorded: Mapping[Activation, Tensor],
    facts: ModelFacts,
    target: ScoreTarget | None,
) -> Findings:
    """Run a resolved method on one picture's activations."""
    with torch.no_grad():
        return method.explain(recorded, facts, target)


async def explain_picture(
    recorder: PictureRecorder,
    model: LoadedModel,
    facts: ModelFacts,
    method: ExplanationMethod,
    picture: AdmittedPicture,
    target: ScoreTarget | None,
    deadline_s: float | None,
    watch: Stopwatch,
) -> Explained:
    """Get what a resolved method needs of a picture, and run it.

    Besides that, logits are recorded for a class and the embedding for a similarity.

    Raises:
        InvalidParameterError: The picture's embedding is zero, for a similarity.
        PairlensError: As `PictureRecorder.record` and `PictureRecorder.probe`.
    """
    if target == ClassLogit():
        target = await _predicted(recorder, model, method, picture, deadline_s)
    wanted = list(method.needs(facts, target))
    if target is not None:
        wanted.append(Logits() if isinstance(target, ClassLogit) else Embedding())
    if isinstance(target, Similarity):
        recording = await _record_for_cosine(recorder, model, picture, wanted, deadline_s)
    else:
        recording = await recorder.record(model, picture, wanted, deadline_s)
    if target is not None:
        probe = await asyncio.to_thread(method.probe, recording.values, facts, target)
        if probe is not None:
            name = method.probed(target)
            recording = await recorder.probe(model, picture, name, probe, recording, deadline_s)
    with watch.stage("method"):
        findings = await asyncio.to_thread(run_method, method, recording.values, facts, target)
    if not bool(torch.isfinite(findings.heatmap).all()):
        raise not_finite(picture, model)
    return Explained(findings, recording)


async def _predicted(
    recorder: PictureRecorder,
    model: LoadedModel,
    method: ExplanationMethod,
    picture: AdmittedPicture,
    deadline_s: float | None,
) -> ClassLogit:
    """The predicted class by its index where it is known, or must be before the method runs.

    Otherwise it is found in the very pass that the method needs, which saves one.
    """
    known = recorder.cached(model, picture, Logits())
    if known is None:
        if not method.class_first:
            return ClassLogit()
        recording = await recorder.record(model, picture, [Logits()], deadline_s)
        known = recording.values[Logits()]
    return ClassLogit(int(known.argmax()))


async def _record_for_cosine(
    recorder: PictureRecorder,
    model: LoadedModel,
    picture: AdmittedPicture,
    wanted: Sequence[Activation],
    deadline_s: float | None,
) -> PictureRecording:
    """Record what a similarity needs, its embedding included, which must not be zero."""
    try:
        recording = await recorder.record(model, picture, wanted, deadline_s)
    except NotFiniteError:
        # Gradients of the cosine of a zero embedding are not finite: that is the news.
        recording = await recorder.record(model, picture, [Embedding()], deadline_s)
        if bool(recording.values[Embedding()].any()):
            raise
    if not bool(recording.values[Embedding()].any()):
        raise zero_embedding(picture.field)
    return recording
