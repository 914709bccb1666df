"""Garbage collection that passes over what a server is made of.

Now and then Python looks through all objects for cycles that nobody uses any more, and holds up
all threads meanwhile: for a third of a second where torch and timm are loaded, which is a third
of what a call may take. Hardly any of these objects ever goes, so they are set aside.
"""

from __future__ import annotations

import gc


def set_aside() -> None:
    """Have collections pass over all objects that there are now."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Collect once among all objects, those set aside included; takes part of a second."""
    has_set_aside = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if has_set_aside:
        gc.freeze()
