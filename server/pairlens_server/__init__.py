"""The pairlens server: holds vision models and explains what they see."""

import os
from importlib.metadata import version

# Past the log, gRPC's core writes a line for every handshake that fails, which strangers can have
# happen as often as they like. It reads this when it is imported, and never again.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

__version__ = version("pairlens")
