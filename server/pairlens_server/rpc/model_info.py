"""What a server tells about its models, methods and limits."""

from __future__ import annotations

from pairlens.v1 import model_service_pb2
from pairlens_server.fidelity.catalogue import METRICS
from pairlens_server.fidelity.metrics import ErasureMetric
from pairlens_server.fidelity.parameters import Board
from pairlens_server.methods.base import Method
from pairlens_server.methods.catalogue import (
    EXPLANATION_METHODS,
    PAIR_METHODS,
    default_explanation_method,
    default_pair_method,
    default_similarity_method,
)
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.parameters import Parameter
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.preprocessing import Preprocessing
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.rpc.convert_methods import explanation_message, pair_message
from pairlens_server.rpc.convert_responses import dtype_name
from pairlens_server.rpc.convert_scores import metric_message
from pairlens_server.service.limits import ServiceLimits


def _described(parameter: Parameter) -> str:
    """What a parameter is; bounds that it may not reach stand there alone."""
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("more than", parameter.above), ("less than", parameter.below))
        if bound is not None
    ]
    return "; ".join([parameter.description, *([" and ".join(bounds)] if bounds else [])])


def _parameter(parameter: Parameter) -> model_service_pb2.ParameterInfo:
    return model_service_pb2.ParameterInfo(
        name=parameter.name,
        type=parameter.type,
        default_value=parameter.default_text,
        description=_described(parameter),
        minimum=parameter.above if parameter.minimum is None else parameter.minimum,
        maximum=parameter.below if parameter.maximum is None else parameter.maximum,
        choices=parameter.choices,
        minimum_excluded=parameter.above is not None,
        maximum_excluded=parameter.below is not None,
    )


def _method(
    method: type[Method], kind: model_service_pb2.MethodKind.ValueType, facts: ModelFacts
) -> model_service_pb2.MethodInfo:
    info = model_service_pb2.MethodInfo(
        name=method.name,
        kind=kind,
        summary=method.summary,
        refusal=method.refusal(facts),
        revision=method.revision,
        source=method.paper,
        caution=method.caution,
    )
    if not info.refusal:
        info.parameters.extend(map(_parameter, method.parameters(facts)))
        info.forward_passes = method.forward_passes(facts)
    return info


def _methods(facts: ModelFacts) -> list[model_service_pb2.MethodInfo]:
    infos = []
    for explanation in EXPLANATION_METHODS:
        info = _method(explanation, model_service_pb2.METHOD_KIND_EXPLANATION, facts)
        info.takes_class = explanation.takes_class
        info.takes_similarity = explanation.takes_similarity
        if not info.refusal:
            info.explanation.CopyFrom(explanation_message(explanation().resolve(facts)))
        infos.append(info)
    for pair in PAIR_METHODS:
        info = _method(pair, model_service_pb2.METHOD_KIND_PAIR, facts)
        # A region has no default.
        if not info.refusal and pair is not Correspondence:
            info.pair.CopyFrom(pair_message(pair().resolve(facts)))
        infos.append(info)
    return infos


def _metrics(model: LoadedModel, facts: ModelFacts) -> list[model_service_pb2.MetricInfo]:
    settings = model.preprocessing
    board = Board(settings.height, settings.width, model.layout.cells, facts.black)
    infos = []
    for metric in METRICS:
        defaults = metric().resolve(board, metric.name)
        copies = defaults.copies(board) if isinstance(defaults, ErasureMetric) else ()
        infos.append(
            model_service_pb2.MetricInfo(
                name=metric.name,
                summary=metric.summary,
                parameters=map(_parameter, metric.parameters(board)),
                defaults=metric_message(defaults),
                higher_is_better=metric.higher_is_better,
                needs_region=metric.needs_region,
                forward_passes=len(set(copies)),
                source=metric.paper,
            )
        )
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
    similarity = default_similarity_method(facts)
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
        blocks=facts.blocks,
        heads=facts.heads,
        classes=model.classes,
        labels=model.labels,
        preprocessing=_preprocessing(model.preprocessing),
        methods=_methods(facts),
        metrics=_metrics(model, facts),
        default_explanation_method=None
        if explanation is None
        else explanation_message(explanation),
        default_similarity_method=None if similarity is None else explanation_message(similarity),
        default_pair_method=None if pair is None else pair_message(pair),
        cam_layer=facts.cam_layer,
        hidden_units=max(facts.hidden_units, default=0),
        random_twin=model.random_twin,
    )


def limits_message(
    limits: ServiceLimits,
    max_request_bytes: int,
    *,
    max_queued_cost: int,
    keeps_images: bool,
    max_concurrent_streams: int,
    max_bytes_under_way: int,
) -> model_service_pb2.Limits:
    """Describe what a request may hold, and what a server takes on."""
    return model_service_pb2.Limits(
        max_request_bytes=max_request_bytes,
        max_image_bytes=limits.images.max_bytes,
        max_image_pixels=limits.images.max_pixels,
        max_candidates=limits.max_candidates,
        max_rendered_pixels=limits.max_rendered_pixels,
        max_match_values=limits.max_match_values,
        max_target_embeddings=limits.max_target_embeddings,
        max_metrics=limits.max_metrics,
        max_copies=limits.max_copies,
        image_formats=limits.images.formats,
        max_digests=limits.max_digests,
        max_queued_cost=max_queued_cost,
        keeps_images=keeps_images,
        max_concurrent_streams=max_concurrent_streams,
        max_bytes_under_way=max_bytes_under_way,
    )
