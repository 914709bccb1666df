"""Explain: where a model looks in one picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pairlens.rendering import GridGeometry
from pairlens_server.images.admission import Picture
from pairlens_server.images.render import Rendered, RenderOptions
from pairlens_server.methods.base import ExplanationMethod, Findings, Panel
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, Similarity
from pairlens_server.service.call_pictures import Wanted
from pairlens_server.service.commands import (
    ExplainCommand,
    ExplainOutcome,
    Float32Array,
    PanelOutcome,
    ResolvedTarget,
    SimilarityTarget,
)
from pairlens_server.service.drawing import check_options, check_pixels, draw, draw_mask
from pairlens_server.service.findings import UNKNOWN, explain_picture, needs
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.partners import find_partners, take_partners
from pairlens_server.service.pictures import AdmittedPicture, draws
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import CallRecorder
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.targets import (
    check_target,
    class_logit,
    describe_class,
    describe_similarity,
    resolve_method,
)
from pairlens_server.service.threads import off_loop
from pairlens_server.service.use_case import UseCase
from pairlens_server.telemetry.record import Stage, name_call


class ExplainUseCase(UseCase):
    """Answers Explain calls; each is an `_ExplainCall`."""

    async def __call__(self, command: ExplainCommand) -> ExplainOutcome:
        """Answer one call.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        model = self._registry.get(command.model)
        name_call(model=model.name)
        facts = self._engine.facts(model)
        method = resolve_method(command.method, command.target, facts)
        name_call(method=method.name)
        check_target(command.target, method, facts)
        watch = Stopwatch()
        recorder = self._recorder.of_call(command, watch)
        call = _ExplainCall(command, model, facts, method, recorder, watch, self._limits)
        return await call.answer()


class _ExplainCall:
    """The steps of one call."""

    def __init__(
        self,
        command: ExplainCommand,
        model: LoadedModel,
        facts: ModelFacts,
        method: ExplanationMethod,
        recorder: CallRecorder,
        watch: Stopwatch,
        limits: ServiceLimits,
    ):
        self._command = command
        self._model = model
        self._facts = facts
        self._method = method
        self._recorder = recorder
        self._limits = limits
        self._watch = watch
        # Embeddings of a similarity target [count, size], and how those of pictures were got.
        self._others = torch.zeros(0, facts.embedding_size)
        self._recordings: tuple[PictureRecording, ...] = ()

    async def answer(self) -> ExplainOutcome:
        """Check, look up, record, compute, draw."""
        command = self._command
        check_options(command.rendering, pair=False)
        (picture,) = await self._recorder.take_all([(command.image, "image")], command.rendering)
        partners = await self._prepare(picture)
        await self._check_drawing(picture)
        target = await self._target(picture, partners)
        explained = await explain_picture(
            self._recorder,
            self._model,
            self._facts,
            self._method,
            picture,
            target,
            self._watch,
        )
        resolved = await off_loop(
            self._others.numel(), self._resolved, target, explained.recording.values
        )
        with self._watch.stage(Stage.ENCODE):
            drawn = await self._draw(picture, explained.findings)
        return ExplainOutcome(
            model=self._model,
            method=self._method,
            target=resolved,
            timings=self._watch.timings([explained.recording, *self._recordings]),
            **drawn,
        )

    async def _check_drawing(self, picture: AdmittedPicture) -> None:
        options = self._command.rendering
        if options is None or not draws(options):
            return
        size = await self._recorder.pictures.measure(picture)
        drawn = [size] * (1 + self._method.panels(self._facts))
        check_pixels(options, drawn, self._limits.max_rendered_pixels)

    async def _prepare(self, picture: AdmittedPicture) -> Wanted:
        """Look up all that has its name yet; the pictures of a similarity target."""
        given, pictures = self._command.target, self._recorder.pictures
        if not isinstance(given, SimilarityTarget):
            wanted = needs(self._method, self._facts, self._class())
            await pictures.look_up([(picture, wanted)], self._model)
            return []
        partners = await take_partners(self._recorder, given, self._model, self._limits)
        every = [(picture, needs(self._method, self._facts, UNKNOWN)), *partners]
        await pictures.look_up(every, self._model)
        if not pictures.kept(partners, self._model):
            # The model has to run for them: whatever else is missing is told before.
            await pictures.prepare(every, self._model)
        return partners

    async def _target(self, picture: AdmittedPicture, partners: Wanted) -> ScoreTarget | None:
        given = self._command.target
        if not isinstance(given, SimilarityTarget):
            return self._class()
        found = await find_partners(self._recorder, given, self._model, partners)
        self._others, self._recordings = found.embeddings, found.recordings
        target = await off_loop(self._others.numel(), Similarity.to, self._others)
        wanted = needs(self._method, self._facts, target)
        await self._recorder.pictures.prepare([(picture, wanted)], self._model)
        return target

    def _class(self) -> ClassLogit | None:
        given = self._command.target
        assert not isinstance(given, SimilarityTarget)
        return class_logit(given, self._model) if self._method.takes_class else None

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
        drawable = await self._recorder.pictures.drawable(picture, self._model)
        if options is not None and drawable is not None:
            rendered = await self._render(drawable, heatmap, geometry, options, mask)
        return PanelOutcome(heatmap, geometry, rendered, panel.block, panel.head, panel.unit, mask)

    async def _render(
        self,
        drawable: Picture,
        heatmap: Float32Array,
        geometry: GridGeometry,
        options: RenderOptions,
        mask: Any,
    ) -> Rendered:
        run = self._recorder.pictures.run
        if mask is not None:
            return await run(draw_mask, drawable, heatmap, geometry, options, mask)
        return await run(draw, drawable, heatmap, geometry, options, [heatmap])
