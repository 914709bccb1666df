"""Make the training scripts, which are not an installed package, importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "server" / "training"))
