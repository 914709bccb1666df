"""How a call uses the cache."""

from __future__ import annotations

from enum import Enum


class CachePolicy(str, Enum):
    """Answers are the same under all of them."""

    DEFAULT = "default"  # take what is there, compute the rest, keep it
    BYPASS = "bypass"  # compute everything, keep nothing
    REFRESH = "refresh"  # compute everything, write it over what is kept

    @property
    def reads(self) -> bool:
        """Whether kept values are taken."""
        return self is CachePolicy.DEFAULT

    @property
    def writes(self) -> bool:
        """Whether computed values are kept."""
        return self is not CachePolicy.BYPASS
