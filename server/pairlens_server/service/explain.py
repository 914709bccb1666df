"""Explain: where a model looks in one picture."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pairlens.rendering import GridGeometry
from pairlens_server.images.render import Rendered, RenderOptions
from pairlens_server.methods.base import ExplanationMethod, Findings, Panel
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, Similarity
from pairlens_server.service.commands import (
    ExplainCommand,
    ExplainOutcome,
    Float32Array,
    PanelOutcome,
    ResolvedTarget,
    SimilarityTarget,
)
from pairlens_server.service.drawing import check_options, check_pixels, draw, draw_mask
from pairlens_server.service.findings import explain_picture
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.partners import find_partners
from pairlens_server.service.recordings import (
    AdmittedPicture,
    PictureRecorder,
    PictureRecording,
)
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.targets import (
    check_target,
    class_logit,
    describe_class,
    describe_similarity,
    resolve_method,
)
from pairlens_server.service.use_case import UseCase


class ExplainUseCase(UseCase):
    """Answers Explain calls; each is an `_ExplainCall`."""

    async def __call__(self, command: ExplainCommand) -> ExplainOutcome:
        """Answer one call.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        model = self._registry.get(command.model)
        facts = self._engine.facts(model)
        method = resolve_method(command.method, command.target, facts)
        check_target(command.target, method, facts)
        call = _ExplainCall(command, model, facts, method, self._recorder, self._limits)
        return await call.answer()


class _ExplainCall:
    """The steps of one call."""

    def __init__(
        self,
        command: ExplainCommand,
        model: LoadedModel,
        facts: ModelFacts,
        method: ExplanationMethod,
        recorder: PictureRecorder,
        limits: ServiceLimits,
    ):
        self._command = command
        self._model = model
        self._facts = facts
        self._method = method
        self._recorder = recorder
        self._limits = limits
        self._watch = Stopwatch()
        # Embeddings of a similarity target [count, size], and how those of pictures were got.
        self._others = torch.zeros(0, facts.embedding_size)
        self._partners: tuple[PictureRecording, ...] = ()

    async def answer(self) -> ExplainOutcome:
        """Check, decode, record, compute, draw."""
        await self._check_drawing()
        with self._watch.stage("decode"):
            picture = await self._recorder.admit(
                self._command.image, "image", self._model, self._command.rendering
            )
        target = await self._target()
        explained = await explain_picture(
            self._recorder,
            self._model,
            self._facts,
            self._method,
            picture,
            target,
            self._command.deadline_s,
            self._watch,
        )
        resolved = await asyncio.to_thread(self._resolved, target, explained.recording.values)
        with self._watch.stage("render"):
            drawn = await self._draw(picture, explained.findings)
        return ExplainOutcome(
            model=self._model,
            method=self._method,
            target=resolved,
            timings=self._watch.timings([explained.recording, *self._partners]),
            **drawn,
        )

    async def _check_drawing(self) -> None:
        options = self._command.rendering
        check_options(options, pair=False)
        if options is None:
            return
        size = await self._recorder.measure(self._command.image, "image")
        drawn = [size] * (1 + self._method.panels(self._facts))
        check_pixels(options, drawn, self._limits.max_rendered_pixels)

    async def _target(self) -> ScoreTarget | None:
        target = self._command.target
        if isinstance(target, SimilarityTarget):
            found = await find_partners(
                self._recorder,
                self._model,
                target,
                self._limits,
                self._command.deadline_s,
                self._watch,
            )
            self._others, self._partners = found.embeddings, found.recordings
            return await asyncio.to_thread(Similarity.to, self._others)
        return class_logit(target, self._model) if self._method.takes_class else None

    def _resolved(self, target: ScoreTarget | None, values: Any) -> ResolvedTarget | None:
        if isinstance(target, ClassLogit):
            return describe_class(values[Logits()], target.class_index, self._model)
        if isinstance(target, Similarity):
            return describe_similarity(values[Embedding()], self._others)
        return None

    async def _draw(self, picture: AdmittedPicture, findings: Findings) -> dict[str, Any]:
        """The part of the outcome that lies on the picture."""
        main = await self._panel(picture, Panel(findings.heatmap, mask=findings.mask))
        panels = [await self._panel(picture, panel) for panel in findings.panels]
        keypoints = findings.keypoints
        return {
            "heatmap": main.heatmap,
            "geometry": main.geometry,
            "rendered": main.rendered,
            "mask": main.mask,
            "panels": tuple(panels),
            "units": findings.units,
            "interrelations": findings.interrelations,
            "keypoints": None if keypoints is None else keypoints.numpy(),
            "relevance_drift": findings.relevance_drift,
            "completeness_error": findings.completeness_error,
            "bias_share": findings.bias_share,
            "prefix_share": findings.prefix_share,
        }

    async def _panel(self, picture: AdmittedPicture, panel: Panel) -> PanelOutcome:
        heatmap: Float32Array = np.ascontiguousarray(panel.heatmap.float().numpy())
        rows, columns = heatmap.shape
        geometry = replace(picture.geometry, rows=rows, columns=columns)
        mask = None if panel.mask is None else panel.mask.numpy()
        options = self._command.rendering
        rendered = None
        if options is not None and picture.drawable is not None:
            rendered = await self._render(picture, heatmap, geometry, options, mask)
        return PanelOutcome(heatmap, geometry, rendered, panel.block, panel.head, panel.unit, mask)

    async def _render(
        self,
        picture: AdmittedPicture,
        heatmap: Float32Array,
        geometry: GridGeometry,
        options: RenderOptions,
        mask: Any,
    ) -> Rendered:
        if mask is not None:
            return await self._recorder.run(
                draw_mask, picture.drawable, heatmap, geometry, options, mask
            )
        return await self._recorder.run(
            draw, picture.drawable, heatmap, geometry, options, [heatmap]
        )
