"""What a server tells about its models, methods and limits."""

from __future__ import annotations

from pairlens.v1 import model_service_pb2
from pairlens_server.methods.base import Parameter
from pairlens_server.methods.catalogue import (
    EXPLANATION_METHODS,
    PAIR_METHODS,
    default_explanation_method,
    default_pair_method,
)
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.preprocessing import Preprocessing
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.rpc.convert_methods import explanation_message, pair_message
from pairlens_server.rpc.convert_responses import dtype_name
from pairlens_server.service.limits import ServiceLimits


def _parameter(parameter: Parameter) -> model_service_pb2.ParameterInfo:
    return model_service_pb2.ParameterInfo(
        name=parameter.name,
        type=parameter.type,
        default_value=parameter.default,
        description=parameter.description,
        minimum=parameter.minimum,
        maximum=parameter.maximum,
        choices=parameter.choices,
    )


def _methods(facts: ModelFacts) -> list[model_service_pb2.MethodInfo]:
    infos = []
    for explanation in EXPLANATION_METHODS:
        info = model_service_pb2.MethodInfo(
            name=explanation.name,
            kind=model_service_pb2.METHOD_KIND_EXPLANATION,
            summary=explanation.summary,
            refusal=explanation.refusal(facts),
            takes_target=explanation.takes_target,
            revision=explanation.revision,
        )
        if not info.refusal:
            info.parameters.extend(map(_parameter, explanation.parameters(facts)))
            info.explanation.CopyFrom(explanation_message(explanation().resolve(facts)))
        infos.append(info)
    for pair in PAIR_METHODS:
        info = model_service_pb2.MethodInfo(
            name=pair.name,
            kind=model_service_pb2.METHOD_KIND_PAIR,
            summary=pair.summary,
            refusal=pair.refusal(facts),
            revision=pair.revision,
        )
        if not info.refusal:
            info.parameters.extend(map(_parameter, pair.parameters(facts)))
            info.pair.CopyFrom(pair_message(pair().resolve(facts)))
        infos.append(info)
    return infos


def _preprocessing(settings: Preprocessing) -> model_service_pb2.PreprocessingInfo:
    return model_service_pb2.PreprocessingInfo(
        resize_mode=settings.resize_mode.value,
        crop_fraction=settings.crop_fraction,
        interpolation=settings.interpolation.value,
        mean=settings.mean,
        std=settings.std,
        digest=settings.digest,
    )


def model_info(model: LoadedModel, facts: ModelFacts) -> model_service_pb2.ModelInfo:
    """Describe a model and everything it can and cannot give."""
    explanation = default_explanation_method(facts)
    pair = default_pair_method(facts)
    return model_service_pb2.ModelInfo(
        name=model.name,
        architecture=model.architecture,
        family=model.family.value,
        fingerprint=model.fingerprint,
        device=str(model.device),
        dtype=dtype_name(model),
        input_height=model.preprocessing.height,
        input_width=model.preprocessing.width,
        embedding_size=model.embedding_size,
        projection=model.projection is not None,
        pooling=model.pooling,
        grid_rows=model.layout.rows,
        grid_columns=model.layout.columns,
        prefix_tokens=model.layout.prefix,
        blocks=model.blocks,
        heads=model.heads,
        classes=model.classes,
        labels=model.labels,
        preprocessing=_preprocessing(model.preprocessing),
        methods=_methods(facts),
        default_explanation_method=None
        if explanation is None
        else explanation_message(explanation),
        default_pair_method=None if pair is None else pair_message(pair),
    )


def limits_message(limits: ServiceLimits, max_request_bytes: int) -> model_service_pb2.Limits:
    """Describe what a request may hold."""
    return model_service_pb2.Limits(
        max_request_bytes=max_request_bytes,
        max_image_bytes=limits.images.max_bytes,
        max_image_pixels=limits.images.max_pixels,
        max_candidates=limits.max_candidates,
        max_rendered_pixels=limits.max_rendered_pixels,
        max_match_values=limits.max_match_values,
        image_formats=limits.images.formats,
    )
