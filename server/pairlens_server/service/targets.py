"""What a call wants explained, as a score that can be read off or differentiated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.catalogue import (
    default_explanation_method,
    default_similarity_method,
)
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import resolve_label
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.targets import ClassLogit, cosines
from pairlens_server.service.commands import (
    ClassTarget,
    Float32Array,
    ResolvedTarget,
    SimilarityTarget,
    Target,
)


def resolve_method(
    method: ExplanationMethod | None, target: Target | None, facts: ModelFacts
) -> ExplanationMethod:
    """Fill in the default method for a kind of target, and the method's parameters.

    Raises:
        MethodUnsupportedError: The model cannot give the method, or any at all.
        InvalidParameterError: A parameter is out of range.
    """
    if method is None:
        similarity = isinstance(target, SimilarityTarget)
        chosen = (default_similarity_method if similarity else default_explanation_method)(facts)
        if chosen is None:
            raise MethodUnsupportedError("this model can give no method of Explain", field="method")
        return chosen
    refusal = method.refusal(facts)
    if refusal:
        raise MethodUnsupportedError(f"no {method.name} on this model: {refusal}", field="method")
    return method.resolve(facts)


def check_target(target: Target | None, method: ExplanationMethod, facts: ModelFacts) -> None:
    """Refuse a target of a kind that the method or the model does not take.

    Raises:
        InvalidParameterError: Names the field.
    """
    method.check_alone()
    if isinstance(target, SimilarityTarget):
        if not method.takes_similarity:
            raise InvalidParameterError(
                f"{method.name} takes no similarity target", field="target.similarity"
            )
        return
    if target is not None and not method.takes_class:
        wanted = "a similarity target alone" if method.takes_similarity else "no target"
        raise InvalidParameterError(f"{method.name} takes {wanted}", field="target")
    if target is None and method.takes_similarity and not method.takes_class:
        raise InvalidParameterError(f"{method.name} needs a similarity target", field="target")
    if method.takes_class and not facts.classes:
        raise InvalidParameterError(
            f"{facts.refusals.classes}; give {method.name} a similarity target", field="target"
        )


def class_logit(target: ClassTarget | None, model: LoadedModel) -> ClassLogit:
    """The class to explain; the predicted one for None.

    Raises:
        InvalidParameterError: There is no such class.
    """
    if target is None:
        return ClassLogit()
    if target.label is not None:
        return ClassLogit(resolve_label(model, target.label))
    index = target.class_index
    if index is not None and not 0 <= index < model.classes:
        raise InvalidParameterError(
            f"class {index} is out of range; this model has classes 0 to {model.classes - 1}",
            field="target.class_index",
        )
    return ClassLogit(index)


def check_embeddings(embeddings: Float32Array, size: int, limit: int) -> None:
    """Refuse embeddings that are not this model's.

    Raises:
        InvalidParameterError: Too many, of another length, or zero.
    """
    field = "target.similarity.embeddings"
    count, width = embeddings.shape
    if count > limit:
        raise InvalidParameterError(f"{count} embeddings; at most {limit}", field=field)
    if width != size:
        raise InvalidParameterError(
            f"embeddings of length {width}; this model's have length {size}", field=field
        )
    empty = np.flatnonzero(~embeddings.any(axis=1))
    if empty.size:
        raise InvalidParameterError(f"embedding {empty[0]} is zero; no cosine exists", field=field)


def describe_class(logits: Tensor, class_index: int | None, model: LoadedModel) -> ResolvedTarget:
    """The class that was explained, from logits [classes]."""
    chosen = int(logits.argmax()) if class_index is None else class_index
    return ResolvedTarget(
        class_index=chosen,
        label=model.labels[chosen] if model.labels else "",
        logit=float(logits[chosen]),
        probability=float(torch.softmax(logits, dim=0)[chosen]),
    )


def describe_similarity(embedding: Tensor, others: Tensor) -> ResolvedTarget:
    """The pictures whose similarity was explained: embedding [size], others [count, size]."""
    return ResolvedTarget(similarities=tuple(cosines(embedding, others).tolist()))
