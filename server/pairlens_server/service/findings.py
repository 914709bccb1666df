"""Running a method of Explain on one picture: activations, further passes, arithmetic."""

from __future__ import annotations

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
from pairlens_server.recording.probes import Probe
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, Similarity
from pairlens_server.service.call_pictures import Needs
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import CallRecorder, not_finite, zero_embedding
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.threads import off_loop
from pairlens_server.telemetry.record import Stage

PREDICTED = ClassLogit()
"""The class with the largest logit, whichever that is."""

UNKNOWN = Similarity(b"")
"""The similarity to pictures that nobody has seen yet."""


def needed(
    method: ExplanationMethod, facts: ModelFacts, target: ScoreTarget | None
) -> list[Activation]:
    """What a resolved method records of a picture, with what says how the target fares."""
    wanted = list(method.needs(facts, target))
    if target is not None:
        wanted.append(Logits() if isinstance(target, ClassLogit) else Embedding())
    return wanted


def needs(method: ExplanationMethod, facts: ModelFacts, target: ScoreTarget | None) -> Needs:
    """What is looked up of a picture for a resolved method and a target.

    Args:
        method: Resolved.
        facts: Of the model.
        target: None for methods without one, `UNKNOWN` for a similarity to pictures that nobody
            has seen yet; neither of that nor of the predicted class are the names known of what
            depends on it.
    """
    wanted = needed(method, facts, target)
    if target is not None and _probes(method):
        wanted.append(method.probed(target))
    if target not in (UNKNOWN, PREDICTED):
        return Needs(tuple(wanted))
    other = Similarity(b"another") if target == UNKNOWN else ClassLogit(0)
    known = set(needed(method, facts, other))
    return Needs(tuple(a for a in wanted if a in known), more=not known.issuperset(wanted))


def _probes(method: ExplanationMethod) -> bool:
    return type(method).probe is not ExplanationMethod.probe


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
    recorder: CallRecorder,
    model: LoadedModel,
    facts: ModelFacts,
    method: ExplanationMethod,
    picture: AdmittedPicture,
    target: ScoreTarget | None,
    watch: Stopwatch,
) -> Explained:
    """Get what a resolved method needs of a picture, and run it.

    Raises:
        PairlensError: As `record_picture`.
        NotFiniteError: The method's numbers overflow.
    """
    recording, target = await record_picture(recorder, model, facts, method, picture, target)
    with watch.stage(Stage.METHOD):
        findings = await off_loop(
            recording.values.numbers, run_method, method, recording.values, facts, target
        )
    if not bool(torch.isfinite(findings.heatmap).all()):
        raise not_finite(picture, model)
    return Explained(findings, recording)


async def record_picture(
    recorder: CallRecorder,
    model: LoadedModel,
    facts: ModelFacts,
    method: ExplanationMethod,
    picture: AdmittedPicture,
    target: ScoreTarget | None,
) -> tuple[PictureRecording, ScoreTarget | None]:
    """Get what a resolved method needs of a picture.

    Besides that, logits are recorded for a class and the embedding for a similarity.

    Returns:
        The recording, and the target, the predicted class by its index.

    Raises:
        InvalidParameterError: The picture's embedding is zero, for a similarity.
        PairlensError: As `CallRecorder.record` and `CallRecorder.probe`.
    """
    if isinstance(target, Similarity):
        wanted = needed(method, facts, target)
        recording = await _record_for_cosine(recorder, model, picture, wanted)
    elif target == PREDICTED:
        recording, target = await _record_predicted(recorder, model, facts, method, picture)
    else:
        recording = await recorder.record(model, picture, needed(method, facts, target))
    if target is None or not _probes(method):
        return recording, target
    made, of = recording.values, target

    async def make() -> Probe:
        probe = await off_loop(made.numbers, method.probe, made, facts, of)
        assert probe is not None
        return probe

    name = method.probed(target)
    return await recorder.probe(model, picture, name, make, recording), target


async def _record_predicted(
    recorder: CallRecorder,
    model: LoadedModel,
    facts: ModelFacts,
    method: ExplanationMethod,
    picture: AdmittedPicture,
) -> tuple[PictureRecording, ClassLogit]:
    """What a method needs for the predicted class, and that class by its index.

    Where it is not known and need not be before the method runs, it is found in the very pass
    that the method needs, which saves one.
    """
    if method.class_first or recorder.cached(model, picture, Logits()) is not None:
        first = await recorder.record(model, picture, [Logits()])
        target = ClassLogit(int(first.values[Logits()].argmax()))
        await recorder.pictures.look_up([(picture, needs(method, facts, target))], model)
        recording = await recorder.record(model, picture, needed(method, facts, target))
        return first.joined(recording), target
    wanted = needed(method, facts, PREDICTED)
    # Kept under the class's own name, by which every later call will ask.
    known = set(needed(method, facts, ClassLogit(0)))
    unkept = [a for a in wanted if a not in known]
    recording = await recorder.record(model, picture, wanted, unkept=unkept)
    target = ClassLogit(int(recording.values[Logits()].argmax()))
    names = dict(zip(wanted, needed(method, facts, target), strict=True))
    new_names = {old: names[old] for old in unkept}
    return recorder.renamed(model, picture, recording, new_names), target


async def _record_for_cosine(
    recorder: CallRecorder,
    model: LoadedModel,
    picture: AdmittedPicture,
    wanted: Sequence[Activation],
) -> PictureRecording:
    """Record what a similarity needs, its embedding included, which must not be zero."""
    try:
        recording = await recorder.record(model, picture, wanted)
    except NotFiniteError:
        # Gradients of the cosine of a zero embedding are not finite: that is the news.
        recording = await recorder.record(model, picture, [Embedding()])
        if bool(recording.values[Embedding()].any()):
            raise
    if not bool(recording.values[Embedding()].any()):
        raise zero_embedding(picture.field)
    return recording
