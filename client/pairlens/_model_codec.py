"""Answers of ModelService as the SDK's frozen values."""

from __future__ import annotations

from pairlens import _metric_codec, _parameters
from pairlens.errors import MalformedResponseError
from pairlens.models import (
    Limits,
    MethodInfo,
    MethodKind,
    ModelDetails,
    ModelInfo,
    ParameterInfo,
    PreprocessingInfo,
)
from pairlens.v1 import model_service_pb2

_KINDS = {
    model_service_pb2.METHOD_KIND_EXPLANATION: MethodKind.EXPLANATION,
    model_service_pb2.METHOD_KIND_PAIR: MethodKind.PAIR,
}


def models(response: model_service_pb2.ListModelsResponse) -> tuple[ModelInfo, ...]:
    """Read the answer of ListModels."""
    return tuple(_model(message) for message in response.models)


def details(response: model_service_pb2.GetModelResponse) -> ModelDetails:
    """Read the answer of GetModel.

    Raises:
        MalformedResponseError: The answer holds no model.
    """
    if not response.HasField("model"):
        raise MalformedResponseError("the answer holds no model")
    limits = response.limits
    return ModelDetails(
        model=_model(response.model),
        limits=Limits(
            max_request_bytes=limits.max_request_bytes,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_candidates=limits.max_candidates,
            max_rendered_pixels=limits.max_rendered_pixels,
            max_match_values=limits.max_match_values,
            max_target_embeddings=limits.max_target_embeddings,
            image_formats=tuple(limits.image_formats),
            max_metrics=limits.max_metrics,
            max_copies=limits.max_copies,
            max_digests=limits.max_digests,
            max_queued_cost=limits.max_queued_cost,
            keeps_images=limits.keeps_images,
            max_concurrent_streams=limits.max_concurrent_streams,
            max_bytes_under_way=limits.max_bytes_under_way,
        ),
    )


def _model(message: model_service_pb2.ModelInfo) -> ModelInfo:
    return ModelInfo(
        name=message.name,
        architecture=message.architecture,
        family=message.family,
        fingerprint=message.fingerprint,
        device=message.device,
        dtype=message.dtype,
        input_height=message.input_height,
        input_width=message.input_width,
        embedding_size=message.embedding_size,
        projection=message.projection,
        pooling=message.pooling,
        grid_rows=message.grid_rows,
        grid_columns=message.grid_columns,
        prefix_tokens=message.prefix_tokens,
        blocks=message.blocks,
        heads=message.heads,
        hidden_units=message.hidden_units,
        cam_layer=message.cam_layer,
        classes=message.classes,
        labels=tuple(message.labels),
        preprocessing=_preprocessing(message.preprocessing),
        # A kind that only a newer contract knows is of no call that this client can make.
        methods=tuple(_method(method) for method in message.methods if method.kind in _KINDS),
        default_explanation_method=_parameters.decode(message.default_explanation_method),
        default_similarity_method=_parameters.decode(message.default_similarity_method),
        default_pair_method=_parameters.decode(message.default_pair_method),
        metrics=tuple(_metric_codec.metric_info(metric, _parameter) for metric in message.metrics),
        random_twin=message.random_twin,
    )


def _preprocessing(message: model_service_pb2.PreprocessingInfo) -> PreprocessingInfo:
    return PreprocessingInfo(
        resize_mode=message.resize_mode,
        crop_fraction=message.crop_fraction,
        interpolation=message.interpolation,
        mean=tuple(message.mean),
        std=tuple(message.std),
        digest=message.digest,
    )


def _method(message: model_service_pb2.MethodInfo) -> MethodInfo:
    which = message.WhichOneof("defaults")
    return MethodInfo(
        name=message.name,
        kind=_KINDS[message.kind],
        summary=message.summary,
        refusal=message.refusal,
        takes_class=message.takes_class,
        takes_similarity=message.takes_similarity,
        revision=message.revision,
        parameters=tuple(_parameter(parameter) for parameter in message.parameters),
        defaults=None if which is None else _parameters.decode(getattr(message, which)),
        forward_passes=message.forward_passes,
        source=message.source,
        caution=message.caution,
    )


def _parameter(message: model_service_pb2.ParameterInfo) -> ParameterInfo:
    return ParameterInfo(
        name=message.name,
        type=message.type,
        default=message.default_value,
        description=message.description,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        choices=tuple(message.choices),
        minimum_excluded=message.minimum_excluded,
        maximum_excluded=message.maximum_excluded,
    )
