"""Every metric that the server exports, as data.

Instruments are made of it, and so is `docs/prometheus.md`.
Units are those of the names: seconds, bytes, and for costs forward passes of one picture.
"""

from __future__ import annotations

from pairlens_server.telemetry.labels import (
    CACHE_KIND,
    CHANGES,
    CODE,
    METHOD,
    MODEL,
    MODEL_OF_CALL,
    OPERATIONS,
    REASONS,
    RESULT,
    RPC,
    STAGE,
    TIER,
)
from pairlens_server.telemetry.metric import Buckets, Label, Metric, counter, gauge, histogram

# Calls.
RPC_HANDLED = counter(
    "rpc_handled_total",
    "Calls that ended, with the code that they ended with, refused and cancelled ones too; what "
    "gRPC itself refuses (a message over max_request_bytes, an unknown method) is not seen.",
    RPC,
    CODE,
    query="sum by (code) (rate(pairlens_rpc_handled_total[5m]))",
)
RPC_DURATION = histogram(
    "rpc_duration_seconds",
    "From the request's arrival to the answer, serialised; refused and cancelled calls too.",
    RPC,
    MODEL_OF_CALL,
    query="histogram_quantile(0.99, sum by (rpc, le) "
    "(rate(pairlens_rpc_duration_seconds_bucket[5m])))",
)
STAGE_DURATION = histogram(
    "stage_duration_seconds",
    "Where calls spend their time: one observation for a call and a stage that occurred in it, "
    "pictures that are worked on side by side counted once. A call that shares the work of "
    "another one has waited for it, too, so that the sum over calls is more than the device's.",
    STAGE,
    METHOD,
    MODEL_OF_CALL,
    query="sum by (stage) (rate(pairlens_stage_duration_seconds_sum[5m])) / on () "
    "group_left sum(rate(pairlens_rpc_duration_seconds_count[5m]))",
)
REJECTED = counter(
    "rejected_total",
    "Calls that failed, by the reason that the caller was given; those that callers gave up, or "
    "whose deadline passed while they were worked on, have none.",
    Label("reason", REASONS),
    query='rate(pairlens_rejected_total{reason=~"QUEUE_FULL|DEADLINE_UNREACHABLE"}[5m])',
)
RPCS_IN_FLIGHT = gauge("rpcs_in_flight", "Calls that were let in and have not ended.")
REQUEST_BYTES = gauge("request_bytes_in_flight", "Bytes of the requests of those calls.")
REQUEST_BYTES_LIMIT = gauge(
    "request_bytes_limit", "Bound of those bytes (max_bytes_under_way); more is refused."
)

# The device.
BATCH_SIZE = histogram(
    "batch_size",
    "Pictures, or copies of one, that shared a pass; those of the warm-up too.",
    MODEL,
    buckets=Buckets.BATCH,
    query="sum by (model) (rate(pairlens_batch_size_sum[5m])) / "
    "sum by (model) (rate(pairlens_batch_size_count[5m]))",
)
BATCH_COST = histogram(
    "batch_cost_units",
    "What a batch cost, in plain forward passes of one picture.",
    MODEL,
    buckets=Buckets.COST,
)
BATCH_DURATION = histogram("batch_duration_seconds", "What a batch took on the device.", MODEL)
BATCH_FAILURES = counter("batch_failures_total", "Pictures whose pass failed on the device.", MODEL)
DEVICE_BUSY = counter(
    "device_busy_seconds_total",
    "Time in which the device ran batches.",
    MODEL,
    query="sum by (instance) (rate(pairlens_device_busy_seconds_total[5m]))",
)
QUEUE_DEPTH = gauge(
    "queue_depth",
    "Work that waits for the device, in plain forward passes of one picture, pictures that are "
    "yet to be decoded included.",
    MODEL,
    query="sum by (instance) (pairlens_queue_depth) / on (instance) pairlens_queue_limit",
)
QUEUE_LIMIT = gauge("queue_limit", "Bound of that work (max_queued); more is refused.")
QUEUE_OLDEST = gauge(
    "queue_oldest_age_seconds",
    "How long the oldest of what waits has waited; 0 when nothing waits.",
    query="max by (instance) (pairlens_queue_oldest_age_seconds)",
)
DEVICE_MEMORY = gauge(
    "device_memory_bytes",
    "Memory of a GPU: held by tensors, reserved by this process, and there at all; absent on the "
    "CPU.",
    Label("device", "as PyTorch names it (cuda:0)"),
    Label("kind", ("allocated", "reserved", "total")),
    query='pairlens_device_memory_bytes{kind="reserved"} / ignoring(kind) '
    'pairlens_device_memory_bytes{kind="total"}',
)

# The cache.
CACHE_REQUESTS = counter(
    "cache_requests_total",
    "Look-ups; Redis is asked for what memory has not. A corrupt value is foreign or damaged.",
    TIER,
    CACHE_KIND,
    RESULT,
    query='sum by (tier) (rate(pairlens_cache_requests_total{result="hit"}[5m])) / '
    "sum by (tier) (rate(pairlens_cache_requests_total[5m]))",
)
CACHE_STORED = counter("cache_stored_total", "Values written.", TIER, CACHE_KIND)
CACHE_DROPPED = counter(
    "cache_dropped_total",
    "Values that were not written: too large, no room to wait in, or Redis away.",
    TIER,
    CACHE_KIND,
)
CACHE_EVICTED = counter(
    "cache_evicted_total", "Values that made room for others in memory.", CACHE_KIND
)
CACHE_ENTRIES = gauge("cache_entries", "Values in memory.", CACHE_KIND)
CACHE_BYTES = gauge("cache_bytes", "Bytes that they take.", CACHE_KIND)
CACHE_BYTES_LIMIT = gauge(
    "cache_bytes_limit", "Bound of those bytes (cache_bytes, image_cache_bytes).", CACHE_KIND
)
REDIS_UP = gauge(
    "redis_up", "1 while Redis is used, 0 while it is left alone; absent where there is none."
)
REDIS_ERRORS = counter(
    "redis_errors_total",
    "Round trips to Redis that took too long, or failed otherwise.",
    Label("kind", ("error", "timeout")),
    query="sum by (kind) (rate(pairlens_redis_errors_total[5m]))",
)
REDIS_DURATION = histogram(
    "redis_operation_seconds",
    "What round trips to Redis took, failed ones too; nothing is asked while it is left alone.",
    Label("operation", OPERATIONS),
    query="histogram_quantile(0.99, sum by (operation, le) "
    "(rate(pairlens_redis_operation_seconds_bucket[5m])))",
)
REDIS_QUEUED = gauge("redis_queued_bytes", "Bytes that wait to be written to Redis.")
REDIS_QUEUED_LIMIT = gauge(
    "redis_queued_bytes_limit", "Bound of those bytes (redis_max_queued_bytes)."
)

# The process.
MODEL_INFO = gauge(
    "model_info",
    "1 for each served model.",
    MODEL,
    Label("architecture", "timm's name"),
    Label("family", "kind of network"),
    Label("fingerprint", "hash of weights and settings"),
    Label("dtype", "what it computes in"),
    Label("device", "where it computes"),
    query="count by (model, fingerprint) (pairlens_model_info)",
)
MODEL_CHANGES = counter(
    "model_changes_total",
    "What became of models when the models file was read again; a file that is wrong as a whole is "
    "one that failed.",
    Label("change", CHANGES),
    query='increase(pairlens_model_changes_total{change="failed"}[1h])',
)
BUILD_INFO = gauge(
    "build_info",
    "1, with the versions of what runs.",
    *(Label(name, "version") for name in ("version", "python", "torch", "timm", "grpc")),
    query="count by (version) (pairlens_build_info)",
)
EVENT_LOOP_LAG = histogram(
    "event_loop_lag_seconds",
    "How late the event loop came to what it was to do: the wait of whoever comes meanwhile.",
    buckets=Buckets.SHORT,
    query="histogram_quantile(0.99, sum by (instance, le) "
    "(rate(pairlens_event_loop_lag_seconds_bucket[5m])))",
)
READY = gauge("ready", "1 while calls are welcome, as /readyz says.")
DRAINING = gauge("draining", "1 while the server finishes what it has, to stop.")
CERTIFICATE_NOT_AFTER = gauge(
    "tls_certificate_not_after_seconds",
    "When the certificate that new connections get expires, or the first of those that come with "
    "it, in seconds since 1970; absent without TLS.",
    query="(pairlens_tls_certificate_not_after_seconds - time()) / 86400",
)
LOG_LINES_DROPPED = counter(
    "log_lines_dropped_total", "Lines that nobody took: the log's reader is too slow, or gone."
)
THREADS = gauge("threads", "Threads of the process.")

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Calls": (
        RPC_HANDLED,
        RPC_DURATION,
        STAGE_DURATION,
        REJECTED,
        RPCS_IN_FLIGHT,
        REQUEST_BYTES,
        REQUEST_BYTES_LIMIT,
    ),
    "Device": (
        QUEUE_DEPTH,
        QUEUE_LIMIT,
        QUEUE_OLDEST,
        BATCH_SIZE,
        BATCH_COST,
        BATCH_DURATION,
        BATCH_FAILURES,
        DEVICE_BUSY,
        DEVICE_MEMORY,
    ),
    "Cache": (
        CACHE_REQUESTS,
        CACHE_STORED,
        CACHE_DROPPED,
        CACHE_EVICTED,
        CACHE_ENTRIES,
        CACHE_BYTES,
        CACHE_BYTES_LIMIT,
        REDIS_UP,
        REDIS_ERRORS,
        REDIS_DURATION,
        REDIS_QUEUED,
        REDIS_QUEUED_LIMIT,
    ),
    "Process": (
        READY,
        DRAINING,
        MODEL_INFO,
        MODEL_CHANGES,
        BUILD_INFO,
        EVENT_LOOP_LAG,
        CERTIFICATE_NOT_AFTER,
        LOG_LINES_DROPPED,
        THREADS,
    ),
}
"""All metrics, by what they are about."""

CATALOGUE = tuple(metric for metrics in SECTIONS.values() for metric in metrics)
"""All metrics."""
