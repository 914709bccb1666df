"""All calls of the clients."""

from __future__ import annotations

from pairlens._administration import AdministrationCalls
from pairlens._caching import CachingCalls
from pairlens._many import ManyCalls
from pairlens._scoring import ScoringCalls


class Calls(ManyCalls, ScoringCalls, CachingCalls, AdministrationCalls):
    """What a client can be asked, as steps; see `_steps`."""
