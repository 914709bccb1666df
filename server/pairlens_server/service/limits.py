"""Bounds of one request, as published by GetModel."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field

from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.admission import ImageLimits


@dataclass(frozen=True)
class ServiceLimits:
    """What a request may hold.

    Attributes:
        images: Of each picture.
        max_candidates: Of one PairSimilarity call.
        max_rendered_pixels: All pixels rendered for one request together.
        max_target_embeddings: Of one similarity target.
        max_metrics: Of one ScoreSaliency call.
        max_copies: Pictures that one ScoreSaliency call has the model see.
        max_digests: Of one FindMissingImages call.
        max_match_values: All match matrices of one request together, 4 bytes a value.
    """

    images: ImageLimits = field(default_factory=ImageLimits)
    max_candidates: int = 64
    max_rendered_pixels: int = 32_000_000
    max_match_values: int = 32_000_000
    max_target_embeddings: int = 100_000
    max_metrics: int = 16
    max_copies: int = 10_000
    max_digests: int = 1000


def check_count(items: Sized, limit: int, field: str) -> None:
    """Refuse a list that is empty or too long.

    Raises:
        InvalidParameterError: Names the field and the limit.
    """
    if not 1 <= len(items) <= limit:
        raise InvalidParameterError(f"{len(items)} {field}; a call takes 1 to {limit}", field=field)
