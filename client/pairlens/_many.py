"""The client's calls about many inputs, so many of them at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from pairlens import _images, _parameters, _requests
from pairlens._explaining import ExplainingCalls
from pairlens._images import EncodedImage, ImageInput, NotAPictureError
from pairlens._steps import Steps
from pairlens.errors import InvalidParameterError, PairlensError
from pairlens.items import Item, ItemFailure, ItemResult
from pairlens.models import MethodKind, ParameterValue
from pairlens.options import CachePolicy, Rendering
from pairlens.pairs import PairResults
from pairlens.results import Explanation
from pairlens.targets import SimilarTo

MAX_CONCURRENCY = 1024
READ_AHEAD = 2
"""Inputs that are read and not yet yielded, for each of those under way at a time: while the
caller works on one result, the next ones are made."""

_T = TypeVar("_T")
_Input = TypeVar("_Input")

Picture: TypeAlias = ImageInput | EncodedImage
Pair: TypeAlias = tuple[Picture, Picture | Sequence[Picture]]
Inputs: TypeAlias = Iterable[_Input] | AsyncIterable[_Input]


@dataclass(frozen=True)
class Many(Generic[_T]):
    """Calls for many inputs.

    Attributes:
        inputs: Read when there is room for more.
        attempt: The call for an input, by its index; a failed one is an answer.
        concurrency: Calls at a time.
        ordered: Whether answers come in the order of the inputs.
    """

    inputs: Inputs[Any]
    attempt: Callable[[int, Any], Steps[Item[_T]]]
    concurrency: int
    ordered: bool

    @property
    def room(self) -> int:
        """Inputs that may be read and not yet yielded."""
        return READ_AHEAD * self.concurrency


class ManyCalls(ExplainingCalls):
    """`explain_many` and `pair_many`."""

    def explain_many(
        self,
        /,
        images: Inputs[Picture],
        *,
        concurrency: int = 8,
        ordered: bool = False,
        model: str | None = None,
        method: str | None = None,
        target: int | str | SimilarTo | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Many[Explanation]:
        """`explain` each of many pictures, several at a time, and yield results as they come.

        Pictures are read when there is room for more, never more than twice `concurrency`
        ahead of what was yielded, so that `images` may be endless. `Client` reads them in the
        caller's thread, and `AsyncClient` in the event loop's unless they are asynchronous:
        an iterable that makes it wait holds up results, too. A picture that
        fails, for whatever reason, is yielded as an `ItemFailure` and leaves the others alone.
        Closing the iterator, by leaving its loop or otherwise, cancels what is under way.

        Args:
            images: Any number of pictures; see `ImageInput`. `AsyncClient` takes asynchronous
                iterables, too. What it raises ends the iteration.
            concurrency: Calls at a time, from 1 to 1024.
            ordered: Yield in the order of `images`; one that is slow then holds up others.
            model: As of `explain`.
            method: As of `explain`.
            target: As of `explain`; one for all.
            render: As of `explain`.
            cache: As of `explain`.
            timeout: Seconds of each picture, from when its turn comes; None for the client's.
            **parameters: Of the method, as of `explain`.

        Yields:
            An `ItemResult` with the `Explanation`, or an `ItemFailure`, for each picture.

        Raises:
            InvalidParameterError: `images` is one picture; an unknown method or parameter; a
                value out of range.
        """
        self._check(images, "images", concurrency, cache, timeout)
        if method is not None:
            _parameters.of_kind(MethodKind.EXPLANATION).checked(method, parameters)
        if target is not None:
            _requests.target_message(target)

        def explain(image: Picture) -> Steps[Explanation]:
            return self.explain(
                image,
                model=model,
                method=method,
                target=target,
                render=render,
                cache=cache,
                timeout=timeout,
                **parameters,
            )

        return Many(images, partial(_attempted, explain, _name), concurrency, ordered)

    def pair_many(
        self,
        /,
        pairs: Inputs[Pair],
        *,
        concurrency: int = 8,
        ordered: bool = False,
        model: str | None = None,
        method: str | None = None,
        render: Rendering | None = None,
        cache: CachePolicy | None = None,
        timeout: float | None = None,
        **parameters: ParameterValue,
    ) -> Many[PairResults]:
        """`pair_similarity` of many pairs, several at a time; yields results as they come.

        All else is as in `explain_many`.

        Args:
            pairs: Any number of (query, candidate), or (query, candidates) with several.
                `AsyncClient` takes asynchronous iterables, too.
            concurrency: Calls at a time, from 1 to 1024.
            ordered: Yield in the order of `pairs`; one that is slow then holds up others.
            model: As of `pair_similarity`.
            method: As of `pair_similarity`.
            render: As of `pair_similarity`.
            cache: As of `pair_similarity`.
            timeout: Seconds of each pair, from when its turn comes; None for the client's.
            **parameters: Of the method, as of `pair_similarity`.

        Yields:
            An `ItemResult` with the `PairResults`, or an `ItemFailure`, for each pair. A
            candidate that the server cannot use is a `PairFailure` among the results.

        Raises:
            InvalidParameterError: An unknown method or parameter, or a value out of range.
        """
        self._check(pairs, "pairs", concurrency, cache, timeout)
        if method is not None:
            _parameters.of_kind(MethodKind.PAIR).checked(method, parameters)

        def explain(pair: Pair) -> Steps[PairResults]:
            query, candidates = pair
            return self.pair_similarity(
                query,
                candidates,
                model=model,
                method=method,
                render=render,
                cache=cache,
                timeout=timeout,
                **parameters,
            )

        return Many(pairs, partial(_attempted, explain, _pair_name), concurrency, ordered)

    def _check(
        self,
        inputs: object,
        field: str,
        concurrency: int,
        cache: CachePolicy | None,
        timeout: float | None,
    ) -> None:
        """Refuse what would fail for each of the inputs alike.

        Raises:
            InvalidParameterError: Of any of the arguments.
        """
        if _images.is_one(inputs) or not isinstance(inputs, (Iterable, AsyncIterable)):
            raise InvalidParameterError(
                f"{field} is an iterable of {field}, not one {type(inputs).__name__}", field=field
            )
        if not (isinstance(concurrency, int) and 1 <= concurrency <= MAX_CONCURRENCY):
            raise InvalidParameterError(
                f"concurrency is from 1 to {MAX_CONCURRENCY}, not {concurrency!r}",
                field="concurrency",
            )
        self._deadline(timeout)
        _requests.cache_policy(self._policy(cache))


def _attempted(
    call: Callable[[_Input], Steps[_T]], name_of: Callable[[_Input], str], index: int, given: _Input
) -> Steps[Item[_T]]:
    """Make the call for one input; its failure is an answer."""
    name = ""
    try:
        name = name_of(given)
        return ItemResult(index=index, name=name, result=(yield from call(given)))
    except PairlensError as error:
        failure = error
    except NotAPictureError as error:
        failure = InvalidParameterError(str(error))
        failure.__cause__ = error
    _forget_frames(failure)
    return ItemFailure(index=index, name=name, error=failure)


def _forget_frames(error: BaseException) -> None:
    """Drop tracebacks: their frames hold the picture and the request as long as the error lives."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def _name(image: object) -> str:
    """What a picture is called."""
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    # Of pictures that were encoded before, and of files that PIL has opened.
    return str(getattr(image, "name", "") or getattr(image, "filename", "") or "")


def _pair_name(pair: object) -> str:
    """What a pair is called.

    Raises:
        InvalidParameterError: It is none.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InvalidParameterError(
            f"a pair is (query, candidate) or (query, candidates), not {type(pair).__name__}",
            field="pairs",
        )
    query, candidates = pair
    if isinstance(candidates, (tuple, list)) and len(candidates) != 1:
        return f"{_name(query)}, {len(candidates)} candidates"
    (candidate,) = candidates if isinstance(candidates, (tuple, list)) else (candidates,)
    return ", ".join(filter(None, (_name(query), _name(candidate))))
