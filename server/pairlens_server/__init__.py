"""The pairlens server: holds vision models and explains what they see."""

import os
from importlib.metadata import version

# Past the log, gRPC's core writes in a format of its own, and waits where nobody reads: a line for
# every handshake that fails, which strangers can have happen as often as they like. It reads this
# when it is imported, and never again.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = version("pairlens")
