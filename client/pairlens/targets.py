"""What a map can explain besides a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pairlens import _images
from pairlens._images import EncodedImage, ImageInput, SentImage
from pairlens.errors import InvalidParameterError
from pairlens.rendering import FloatArray

_IMAGES, _EMBEDDINGS = "target.similarity.images", "target.similarity.embeddings"


@dataclass(frozen=True, init=False, eq=False)
class SimilarTo:
    """Similarity to other pictures, given as pictures, as embeddings, or as both.

    The score that a map explains is the sum of the cosine similarities to all of them.

    Attributes:
        images: The pictures, read and encoded; at most `Limits.max_candidates`.
        embeddings: float32 [count, `ModelInfo.embedding_size`], read-only, each of any
            length but zero; at most `Limits.max_target_embeddings`. None without any.

    Example:
        >>> client.explain("cat.jpg", target=SimilarTo("other-cat.jpg"))
        >>> client.explain("cat.jpg", target=SimilarTo(embeddings=index.vectors(ids)))
    """

    images: tuple[SentImage, ...]
    embeddings: FloatArray | None = field(repr=False)

    def __init__(
        self,
        images: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage] = (),
        embeddings: npt.ArrayLike | None = None,
    ) -> None:
        """Read the pictures and check the embeddings.

        Args:
            images: One picture or several; see `ImageInput`.
            embeddings: Of this model: [count, size], or one of [size].

        Raises:
            ImageFileError: A path cannot be read.
            InvalidParameterError: Neither is given; or embeddings of another shape, not
                finite, or zero.
        """
        encoded = tuple(_images.encode_all(images, field=_IMAGES))
        checked = None if embeddings is None else _embeddings(embeddings)
        if not encoded and checked is None:
            raise InvalidParameterError("SimilarTo needs images or embeddings", field="target")
        object.__setattr__(self, "images", encoded)
        object.__setattr__(self, "embeddings", checked)


def _embeddings(given: npt.ArrayLike) -> FloatArray:
    try:
        with np.errstate(over="ignore"):  # what is infinite in float32 is refused below
            array = np.atleast_2d(np.array(given, np.float32))
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"embeddings are numbers: {error}", field=_EMBEDDINGS) from None
    if array.ndim != 2 or not array.size:
        raise InvalidParameterError(
            f"embeddings are [count, size] or one of [size], not of shape {np.shape(given)}",
            field=_EMBEDDINGS,
        )
    usable = np.isfinite(array).all(axis=1) & array.any(axis=1)
    if not usable.all():
        row = int(np.argmin(usable))
        raise InvalidParameterError(
            f"embeddings[{row}] is zero or not finite", field=f"{_EMBEDDINGS}[{row}]"
        )
    array.setflags(write=False)
    return array
