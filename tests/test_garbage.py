"""In a process of its own: what is set aside is so for the whole process."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc, weakref
import timm, torch
from pairlens_server import garbage

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

garbage.collect_all()
print(gc.get_freeze_count())          # nothing is set aside by that alone
before = len(gc.get_objects())
old = Node()
old.itself = old
seen = weakref.ref(old)
garbage.set_aside()
print(gc.get_freeze_count() > before / 2)
print(len(gc.get_objects()) < before / 100)
del old
gc.collect()
print(seen() is not None)             # passed over
young = cycle()
gc.collect()
print(young() is None)
garbage.collect_all()
print(seen() is None)
print(gc.get_freeze_count() > before / 2)
"""


def test_collections_pass_over_what_was_set_aside():
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["0", *["True"] * 6]
