"""Explain: where a model looks in one picture."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pairlens_server.engine.engine import Engine
from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.images.render import Rendered, RenderOptions
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.catalogue import default_explanation_method
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry, resolve_label
from pairlens_server.recording.activations import Activation, Logits
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    ExplainOutcome,
    Float32Array,
    ResolvedTarget,
)
from pairlens_server.service.drawing import check_options, check_pixels, draw
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.recordings import AdmittedPicture, PictureRecorder
from pairlens_server.service.stopwatch import Stopwatch


def resolve_method(method: ExplanationMethod | None, facts: ModelFacts) -> ExplanationMethod:
    """Fill in the default method and its parameters.

    Raises:
        MethodUnsupportedError: The model cannot give the method, or any at all.
        InvalidParameterError: A parameter is out of range.
    """
    chosen = default_explanation_method(facts) if method is None else method
    if chosen is None:
        raise MethodUnsupportedError("this model can give no method of Explain", field="method")
    refusal = chosen.refusal(facts)
    if refusal:
        raise MethodUnsupportedError(f"no {chosen.name} on this model: {refusal}", field="method")
    return chosen.resolve(facts)


def resolve_class(
    target: ClassTarget | None, method: ExplanationMethod, model: LoadedModel
) -> int | None:
    """The class to explain; None for the predicted one and for methods without a target.

    Raises:
        InvalidParameterError: The method takes no target, or there is no such class.
    """
    if target is None:
        return None
    if not method.takes_target:
        raise InvalidParameterError(f"{method.name} takes no target", field="target")
    if target.label is not None:
        return resolve_label(model, target.label)
    index = target.class_index
    if index is not None and not 0 <= index < model.classes:
        raise InvalidParameterError(
            f"class {index} is out of range; this model has classes 0 to {model.classes - 1}",
            field="target.class_index",
        )
    return index


def describe_target(logits: Tensor, class_index: int | None, model: LoadedModel) -> ResolvedTarget:
    """The class that was explained, from logits [classes]."""
    chosen = int(logits.argmax()) if class_index is None else class_index
    return ResolvedTarget(
        class_index=chosen,
        label=model.labels[chosen] if model.labels else "",
        logit=float(logits[chosen]),
        probability=float(torch.softmax(logits, dim=0)[chosen]),
    )


def compute_heatmap(
    method: ExplanationMethod,
    values: Mapping[Activation, Tensor],
    facts: ModelFacts,
    class_index: int | None,
) -> Float32Array:
    """Run a method on one picture's activations: float32 [rows, columns]."""
    batch = {activation: value.unsqueeze(0) for activation, value in values.items()}
    with torch.no_grad():
        heatmap = method.heatmap(batch, facts, class_index)[0]
    return np.ascontiguousarray(heatmap.numpy())


class ExplainUseCase:
    """Runs one Explain call: check, decode, record, compute, render."""

    def __init__(
        self,
        registry: ModelRegistry,
        engine: Engine,
        recorder: PictureRecorder,
        limits: ServiceLimits,
    ):
        self._registry = registry
        self._engine = engine
        self._recorder = recorder
        self._limits = limits

    async def __call__(self, command: ExplainCommand) -> ExplainOutcome:
        """Answer one call.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        watch = Stopwatch()
        model = self._registry.get(command.model)
        facts = self._engine.facts(model)
        method = resolve_method(command.method, facts)
        class_index = resolve_class(command.target, method, model)
        options = command.rendering
        check_options(options, pair=False)
        if options is not None:
            size = await self._recorder.measure(command.image, "image")
            check_pixels(options, [size], self._limits.max_rendered_pixels)
        with watch.stage("decode"):
            picture = await self._recorder.admit(command.image, "image", model, options)
        recording = await self._recorder.record(
            model, picture, method.needs(class_index), command.deadline_s
        )
        with watch.stage("method"):
            heatmap = await asyncio.to_thread(
                compute_heatmap, method, recording.values, facts, class_index
            )
        with watch.stage("render"):
            rendered = await self._draw(picture, heatmap, options)
        target = None
        if method.takes_target:
            target = describe_target(recording.values[Logits()], class_index, model)
        return ExplainOutcome(
            model=model,
            heatmap=heatmap,
            geometry=picture.geometry,
            method=method,
            target=target,
            rendered=rendered,
            timings=watch.timings([recording]),
        )

    async def _draw(
        self, picture: AdmittedPicture, heatmap: Float32Array, options: RenderOptions | None
    ) -> Rendered | None:
        if options is None or picture.drawable is None:
            return None
        return await self._recorder.run(
            draw, picture.drawable, heatmap, picture.geometry, options, [heatmap]
        )
