"""What a call of ScoreSaliency is about: its pictures, and what is read off their copies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from pairlens_server.fidelity.copies import Side
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.partners import Partners, find_partners
from pairlens_server.service.recordings import (
    AdmittedPicture,
    PictureRecorder,
    PictureRecording,
    zero_embedding,
)
from pairlens_server.service.score_checks import check_region
from pairlens_server.service.score_commands import ScoreCommand
from pairlens_server.service.score_readings import ClassReading, Reading, SimilarityReading
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.targets import class_logit


@dataclass(frozen=True, eq=False)
class ScoreContext:
    """What the steps of one call share.

    Attributes:
        command: The call.
        model: The model that was asked.
        facts: Of the model.
        recorder: Gets activations.
        limits: Of the call.
        watch: Of the call.
    """

    command: ScoreCommand
    model: LoadedModel
    facts: ModelFacts
    recorder: PictureRecorder
    limits: ServiceLimits
    watch: Stopwatch

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
    with context.watch.stage("decode"):
        image = await context.recorder.admit(command.image, "image", model, None)
    if command.region is not None:
        check_region(command.region, image.geometry)
    if isinstance(command.target, SimilarityTarget):
        partners = await find_partners(
            context.recorder,
            model,
            command.target,
            context.limits,
            command.deadline_s,
            context.watch,
        )
        return await _of_similarity(context, image, partners)
    wanted = class_logit(command.target, model)
    recording = await context.recorder.record(model, image, [Logits()], command.deadline_s)
    logits = recording.values[Logits()]
    index = int(logits.argmax()) if wanted.class_index is None else wanted.class_index
    return Subject({Side.IMAGE: image}, ClassReading(model, logits, index), (recording,))


async def _of_similarity(
    context: ScoreContext, image: AdmittedPicture, partners: Partners
) -> Subject:
    command = context.command
    recording = await context.recorder.record(
        context.model, image, [Embedding()], command.deadline_s
    )
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
