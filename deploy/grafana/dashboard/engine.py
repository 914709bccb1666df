"""What waits for devices, what they do, and what the processes take."""

from __future__ import annotations

from dashboard.overview import FULL
from dashboard.panel import Panel, Query, Row, chosen, mean, quantile, rate

_MODEL = "=~$model"
_DEVICE_MEMORY = "pairlens_device_memory_bytes"
_NOT_AFTER = "pairlens_tls_certificate_not_after_seconds"
_BATCH_DURATION = "pairlens_batch_duration_seconds"


def _share(part: str, whole: str) -> str:
    return f"sum by (pod) ({chosen(part)}) / sum by (pod) ({chosen(whole)})"


QUEUE = Row(
    "Queue and batches",
    (
        Panel(
            "How full queues are",
            "What waits for a device, of what may wait (max_queued), by replica.",
            "The next burst is refused. All replicas: add some. One: calls are not spread. "
            "Runbook: PairlensQueueFull.",
            [Query(_share("pairlens_queue_depth", "pairlens_queue_limit"), "{{pod}}")],
            unit="percentunit",
            thresholds=FULL,
        ),
        Panel(
            "Waiting work by model",
            "In plain forward passes of one picture, all replicas.",
            "The model with most is where work comes from; the log names the clients.",
            [
                Query(
                    f"sum by (model) ({chosen('pairlens_queue_depth', model=_MODEL)})",
                    "{{model}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            "Longest wait",
            "How long the oldest of what waits has waited, by replica. Dashed: ticket and page.",
            "If batches still end, there is too much work; if none does, the device stands still: "
            "delete the pod. Runbook: PairlensQueueOld.",
            [
                Query(
                    f"max by (pod) ({chosen('pairlens_queue_oldest_age_seconds')})",
                    "{{pod}}",
                )
            ],
            unit="s",
            thresholds=((15, "orange"), (60, "red")),
        ),
        Panel(
            "Refused for want of room",
            "Calls per second, by reason and replica.",
            "QUEUE_FULL: add replicas. DEADLINE_UNREACHABLE with short queues: callers give less "
            "time than their work takes. OUT_OF_MEMORY: models or inputs too large for the "
            "device. Runbook: PairlensRejecting, PairlensOutOfMemory.",
            [
                Query(
                    "sum by (pod, reason) ("
                    + rate(
                        "pairlens_rejected_total",
                        reason="=~QUEUE_FULL|DEADLINE_UNREACHABLE|OUT_OF_MEMORY",
                    )
                    + ") > 0",
                    "{{pod}} {{reason}}",
                )
            ],
            unit="reqps",
        ),
        Panel(
            "Pictures in a batch",
            "Mean number that share a pass, by model; it grows with the load.",
            "1 under load: requests differ too much to share, or max_batch is 1.",
            [Query(mean("pairlens_batch_size", "model", model=_MODEL), "{{model}}")],
        ),
        Panel(
            "Cost of a batch",
            "Mean, in plain forward passes of one picture, by model.",
            "Far above the number of pictures: methods with gradients or many copies.",
            [Query(mean("pairlens_batch_cost_units", "model", model=_MODEL), "{{model}}")],
        ),
        Panel(
            "p99 duration of batches",
            "99 % of the batches take at most this on the device; nobody else runs meanwhile.",
            "Lower max_batch or probe_chunk if others wait too long; a rise without cause is a "
            "device that is slow, hot or shared.",
            [
                Query(
                    quantile(0.99, "pairlens_batch_duration_seconds", "model", model=_MODEL),
                    "{{model}}",
                )
            ],
            unit="s",
        ),
        Panel(
            "How busy devices are",
            "Share of the time in which a batch ran, by replica.",
            "Near 100 % is good use, as long as queues are short; with long ones add replicas. "
            "Near 0 % under load: the work is elsewhere, see Stages.",
            [
                Query(
                    f"sum by (pod) ({rate('pairlens_device_busy_seconds_total')})",
                    "{{pod}}",
                )
            ],
            unit="percentunit",
        ),
        Panel(
            "Pictures that failed on a device",
            "Per second, by model.",
            "The log has the error. A picture alone: its caller is told. All of one replica: its "
            "device is broken, delete the pod.",
            [
                Query(
                    f"sum by (model) ({rate('pairlens_batch_failures_total', model=_MODEL)})",
                    "{{model}}",
                )
            ],
        ),
    ),
)

PROCESS = Row(
    "Device and process",
    (
        Panel(
            "Device memory",
            "Held by tensors (allocated) and kept by PyTorch (reserved), of what there is, by "
            "replica. Nothing on the CPU.",
            "Serve fewer models from one replica, or lower max_batch. Runbook: "
            "PairlensDeviceMemory.",
            [
                Query(
                    f"{chosen(_DEVICE_MEMORY, kind='=~allocated|reserved')} "
                    "/ ignoring (kind) group_left () "
                    f"{chosen(_DEVICE_MEMORY, kind='total')}",
                    "{{pod}} {{device}} {{kind}}",
                )
            ],
            unit="percentunit",
            thresholds=((0.9, "red"),),
        ),
        Panel(
            "Processor",
            "Cores that each replica uses.",
            "At its limit it is throttled, and the event loop with it: raise the limit, or lower "
            "image_threads and torch_threads.",
            [Query(f"sum by (pod) ({rate('process_cpu_seconds_total')})", "{{pod}}")],
        ),
        Panel(
            "Resident memory",
            "Of each replica.",
            "Grows without end at constant load and full caches: a leak, keep the graph for the "
            "report. Near the limit: lower cache_bytes.",
            [Query(f"sum by (pod) ({chosen('process_resident_memory_bytes')})", "{{pod}}")],
            unit="bytes",
        ),
        Panel(
            "Lateness of the event loop",
            "p99 of how late it comes to what it was to do, by replica; every call and health "
            "check waits as long.",
            "The process does not get its processor, or handles messages of tens of megabytes. "
            "Runbook: PairlensEventLoopLag.",
            [Query(quantile(0.99, "pairlens_event_loop_lag_seconds", "pod"), "{{pod}}")],
            unit="s",
            thresholds=((0.5, "red"),),
        ),
        Panel(
            "File descriptors",
            "Share of those that a replica may open.",
            "Clients open a channel for each call, or the limit is low. Runbook: "
            "PairlensFileDescriptors.",
            [Query(_share("process_open_fds", "process_max_fds"), "{{pod}}")],
            unit="percentunit",
            thresholds=((0.8, "red"),),
        ),
        Panel(
            "Threads",
            "Of each replica.",
            "Grows without end: a leak, keep the graph for the report.",
            [Query(f"sum by (pod) ({chosen('pairlens_threads')})", "{{pod}}")],
        ),
        Panel(
            "Bytes of requests under way",
            "Of what a replica holds at once (max_bytes_under_way).",
            "Further calls are refused with QUEUE_FULL: many large pictures at once; send "
            "digests, or raise the bound with the memory.",
            [
                Query(
                    _share("pairlens_request_bytes_in_flight", "pairlens_request_bytes_limit"),
                    "{{pod}}",
                )
            ],
            unit="percentunit",
            thresholds=FULL,
        ),
        Panel(
            "Log lines dropped",
            "Per second, by replica. Calls are never held up by the log.",
            "The disk of the node's logs is full, or its collector stands still. Runbook: "
            "PairlensLogLinesDropped.",
            [
                Query(
                    f"sum by (pod) ({rate('pairlens_log_lines_dropped_total')})",
                    "{{pod}}",
                )
            ],
            thresholds=((0.01, "red"),),
        ),
        Panel(
            "Time until the certificate expires",
            "Of the one that each replica serves; nothing without TLS. Dashed: page and ticket.",
            "Whatever renews it failed, or the new one did not reach the server: compare it with "
            "the Secret's. Runbook: PairlensCertificateExpiring.",
            [Query(f"min by (pod) ({chosen(_NOT_AFTER)}) - time()", "{{pod}}")],
            unit="s",
            thresholds=((86_400, "orange"), (7 * 86_400, "green")),
        ),
    ),
)
