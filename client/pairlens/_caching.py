"""The client's calls that fill, describe and empty a server's cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pairlens import _cache_codec, _transport
from pairlens._image_fields import ImageField
from pairlens._images import SentImage
from pairlens._sending import ManyCalls, Pictures, Sending
from pairlens._steps import Steps
from pairlens.caching import CacheStats, ClearedCache, Warmed
from pairlens.errors import InvalidParameterError
from pairlens.models import Method, MethodKind
from pairlens.options import CachePolicy
from pairlens.v1 import admin_service_pb2
from pairlens.v1.explanation_service_pb2 import WarmRequest


class CachingCalls(Sending):
    """`warm`, `cache_stats` and `clear_cache`."""

    def warm(
        self,
        images: Pictures,
        *,
        model: str | None = None,
        methods: str | Method | Iterable[str | Method] = (),
        pair_methods: str | Method | Iterable[str | Method] = (),
        cache: CachePolicy | None = None,
        timeout: float | None = None,
    ) -> Steps[Warmed]:
        """Have the server compute and keep what later calls about pictures will need.

        Pictures are read and sent in as many requests as the server's limits ask for, one
        after the other; a file that the server has already is not sent.

        Args:
            images: One picture or several; see `ImageInput`.
            model: Name of a served model. None: the first.
            methods: Of `explain`, for their default target: "rollout",
                "grad_cam(rule=libra)", several parted by commas, or `Method`s. Those that
                need another picture as a target are refused.
            pair_methods: The same of `pair_similarity`; all that does not depend on the
                partner is computed. Without either, the model's default pair method and
                embeddings.
            cache: "default" computes what is not there, "refresh" everything. None: as the
                client says.
            timeout: Seconds of each request; None for the client's.

        Raises:
            InvalidParameterError: No picture; an unknown method or parameter, or a value out
                of range; or "bypass", which would keep nothing.
            ImageFileError: A path cannot be read.
            PairlensError: A request failed; see `pairlens.errors`.
        """
        policy = self._policy(cache)
        if policy == "bypass":
            raise InvalidParameterError("warm fills the cache: bypass keeps nothing", field="cache")
        explaining = _cache_codec.methods(methods, MethodKind.EXPLANATION)
        pairing = _cache_codec.methods(pair_methods, MethodKind.PAIR)
        known = yield from self._catalogue.details(model, self._deadline(timeout))

        def build(chunk: Sequence[SentImage], field: ImageField) -> WarmRequest:
            name = known.model.name
            return _cache_codec.warm_request(chunk, name, explaining, pairing, policy, field)

        parts = _cache_codec.WarmedParts()
        calls = ManyCalls(lambda stubs: stubs.explanations.Warm, build, known, timeout)
        yield from self._send_each(calls, images, parts)
        return parts.warmed()

    def cache_stats(self, *, timeout: float | None = None) -> Steps[CacheStats]:
        """What the cache of the server holds, and has done since the server started.

        Of several servers behind one name, any one answers.

        Args:
            timeout: Seconds; None for the client's.

        Raises:
            PairlensError: The call failed; see `pairlens.errors`.
        """
        request = admin_service_pb2.GetCacheStatsRequest()
        response = yield from _transport.call(
            lambda stubs: stubs.admin.GetCacheStats, request, self._deadline(timeout)
        )
        return _cache_codec.cache_stats(response)

    def clear_cache(
        self, model: str | None = None, *, images: bool = False, timeout: float | None = None
    ) -> Steps[ClearedCache]:
        """Empty the memory of the server, and the Redis that it shares.

        Nothing depends on it: what is needed again is computed again.

        Args:
            model: Whose activations. None: those of all models, of models that are not
                served any more, too.
            images: Remove uploaded pictures as well, which belong to no model.
            timeout: Seconds; None for the client's.

        Raises:
            InvalidParameterError: A model and images: clear them by two calls.
            ModelNotFoundError: It is not served.
            PairlensError: The call failed; see `pairlens.errors`.
        """
        if model is not None and images:
            raise InvalidParameterError(
                "images belong to no model: leave one of them out", field="images"
            )
        kinds = [admin_service_pb2.CACHE_KIND_ACTIVATION]
        if images:
            kinds.append(admin_service_pb2.CACHE_KIND_IMAGE)
        request = admin_service_pb2.ClearCacheRequest(model=model or "", kinds=kinds)
        with self._forgetting_stale_models():
            response = yield from _transport.call(
                lambda stubs: stubs.admin.ClearCache, request, self._deadline(timeout)
            )
        return _cache_codec.cleared(response)
