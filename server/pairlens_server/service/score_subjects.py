"""What a call of ScoreSaliency is about: its pictures, and what is read off their copies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.metrics import ErasureMetric
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.service.call_pictures import Needs
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.partners import Partners, find_partners, take_partners
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import CallRecorder, zero_embedding
from pairlens_server.service.score_checks import check_region
from pairlens_server.service.score_commands import ScoreCommand
from pairlens_server.service.score_readings import (
    ClassReading,
    Reading,
    SimilarityReading,
    changed_by,
)
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.targets import class_logit


@dataclass(frozen=True, eq=False)
class ScoreContext:
    """What the steps of one call share.

    Attributes:
        command: The call.
        model: The model that was asked.
        facts: Of the model.
        recorder: Of the call.
        limits: Of the call.
        watch: Of the call.
    """

    command: ScoreCommand
    model: LoadedModel
    facts: ModelFacts
    recorder: CallRecorder
    limits: ServiceLimits
    watch: Stopwatch

    @property
    def copied(self) -> tuple[Side, ...]:
        """The pictures of which a metric has changed copies made."""
        erases = any(isinstance(metric, ErasureMetric) for metric in self.command.metrics)
        return changed_by(self.sides) if erases else ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that metrics are answered for."""
        return self.command.sides or (Side.IMAGE,)


@dataclass(frozen=True, eq=False)
class Subject:
    """What a call is about.

    Attributes:
        pictures: Admitted, by their part in the pair.
        reading: What is read off their copies.
        recordings: Of the clean pictures.
    """

    pictures: Mapping[Side, AdmittedPicture]
    reading: Reading
    recordings: tuple[PictureRecording, ...]


async def find_subject(context: ScoreContext) -> Subject:
    """Admit the pictures of a call, check its region, and get the clean pictures' scores.

    Raises:
        PairlensError: Names the field.
    """
    command, model = context.command, context.model
    recorder, target, copied = context.recorder, command.target, context.copied
    similarity = isinstance(target, SimilarityTarget)
    (image,) = await recorder.take_all([(command.image, "image")])
    first = Embedding() if similarity else Logits()
    wanted = [(image, Needs((first,), more=Side.IMAGE in copied))]
    if isinstance(target, SimilarityTarget):
        looked_at = Side.PARTNER in copied
        wanted += await take_partners(recorder, target, model, context.limits, looked_at=looked_at)
    await recorder.pictures.prepare(wanted, model)
    if command.region is not None:
        await recorder.pictures.settle(image, model)
        check_region(command.region, image.geometry)
    if isinstance(target, SimilarityTarget):
        partners = await find_partners(recorder, target, model, wanted[1:])
        return await _of_similarity(context, image, partners)
    return await _of_class(context, image)


async def _of_class(context: ScoreContext, image: AdmittedPicture) -> Subject:
    command, model = context.command, context.model
    assert not isinstance(command.target, SimilarityTarget)
    wanted = class_logit(command.target, model)
    recording = await context.recorder.record(model, image, [Logits()])
    logits = recording.values[Logits()]
    index = int(logits.argmax()) if wanted.class_index is None else wanted.class_index
    return Subject({Side.IMAGE: image}, ClassReading(model, logits, index), (recording,))


async def _of_similarity(
    context: ScoreContext, image: AdmittedPicture, partners: Partners
) -> Subject:
    command = context.command
    recording = await context.recorder.record(context.model, image, [Embedding()])
    embedding = recording.values[Embedding()]
    if not bool(embedding.any()):
        raise zero_embedding("image")
    pictures = {Side.IMAGE: image}
    if len(partners.pictures) == 1:
        pictures[Side.PARTNER] = partners.pictures[0]
    reading = await asyncio.to_thread(
        SimilarityReading.to,
        context.sides,
        embedding,
        partners.embeddings,
        embeddings=command.return_embeddings,
    )
    return Subject(pictures, reading, (recording, *partners.recordings))
