"""The caller's trace, continued at the server (W3C Trace Context), where there is one.

OpenTelemetry is no dependency: programs that trace have it, others lose nothing.
"""

from __future__ import annotations

import sys

Metadata = tuple[tuple[str, str], ...]


def metadata() -> Metadata:
    """What a call sends along so that the server's spans join the active one; () without."""
    # A span can only be active where the program has imported what makes it.
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not trace.get_current_span().get_span_context().is_valid:
        return ()
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
