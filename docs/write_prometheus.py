"""Write the page of all metrics, from the code.

python docs/write_prometheus.py
"""

from __future__ import annotations

from pathlib import Path

from pairlens_server.config import ServerSettings
from pairlens_server.telemetry.catalogue import SECTIONS, STAGE_DURATION
from pairlens_server.telemetry.logs import CALL_LOGGER
from pairlens_server.telemetry.metric import BOUNDS, Buckets, Label, Metric
from pairlens_server.telemetry.record import STAGES, Stage
from pairlens_server.telemetry.state import SILENT_S
from pairlens_server.telemetry.telemetry import BEAT_S

PAGE = Path(__file__).resolve().parent / "prometheus.md"

_HEAD = f"""\
# Watching a server

`python docs/write_prometheus.py` writes this page from the code that exports the metrics; a test
compares the two.

With `metrics_listen` set ([configuration.md](configuration.md)) a server answers over plain HTTP:

| path | answer |
|---|---|
| `/metrics` | all metrics, in the format of Prometheus or of OpenMetrics, packed by gzip if asked |
| `/livez` | 200 `ok`; 503 where a new process would do better, and why |
| `/readyz` | 200 `ok` while calls are welcome; 503 `loading`, `draining`, `dead`, or why it hangs |

```sh
pairlens-server --metrics-listen 127.0.0.1:9464
curl http://127.0.0.1:9464/metrics
```

The port has threads of its own, which answer although the event loop hangs; whoever can reach it
can read it, so keep it inside the cluster. `/livez` fails when the event loop has been silent for
{SILENT_S:g} s, a batch has been on the device for `stall_s`, or the device can run nothing any
more, and `/readyz` does then, too. Neither path depends on Redis, whose loss costs time alone.

Counters and histograms count as things happen; gauges and the cache's counters are those of a
moment {BEAT_S:g} s ago at most. Durations are in seconds, sizes in bytes, and costs in forward
passes of one picture. Histograms of durations have the buckets of `latency_buckets_s`; the label
values `none` and `unknown` stand for what a call does not name, and for names that are none, so
that strangers cannot make series. A model that is replaced goes on counting under its name; of one
that is removed the gauges go, and what was counted stays until the process ends.
"""

_TAIL = f"""\
## Logs

Lines go to stderr, as text or (`log_format: json`) as one JSON object each; stdout has one or two
lines of plain text, `listening on HOST:PORT` and `metrics on HOST:PORT`, and a process that cannot
start, or crashes, says why in its last words. So where both come together, as in `kubectl logs`,
read them with `jq -R 'fromjson?'`. An object has `time`, `level`,
`logger`, `message`; `request_id` on every line that belongs to a call; `traceback` where there is
one. A call's own line is of the logger `{CALL_LOGGER}` and has `rpc`, `code`, `seconds`, `peer`
and `stages` (seconds of each), and where they are known `reason`, `client`, `model`, `method` and
`trace_id`. `log_calls` says which calls get one. No line holds a picture, a token or anything
else of a request.

A request id is what the client sends as metadata `x-request-id` (1 to 64 printable ASCII
characters), or else made by the server. The client finds it in `Timing.request_id`, in the trailing
metadata `x-request-id`, and in every error's `ErrorInfo.metadata`.

Nothing waits for the log: when nobody takes lines any more (a full disk, a reader that stopped)
they are dropped, and `pairlens_log_lines_dropped_total` counts them. gRPC's own lines, which would
bypass this, are off; `GRPC_VERBOSITY=INFO` in the environment shows for instance why a TLS
handshake failed.

## Traces

With `tracing` and the extra `pairlens[otel]` each call is a span, with a child for each run of a
stage ({", ".join(f"`{stage.value}`" for stage in Stage)}), below the caller's span if
the call brings one (W3C Trace Context; the SDK does where OpenTelemetry is set up). The variables
`OTEL_*` say the rest, for example:

| variable | says |
|---|---|
| `OTEL_EXPORTER_OTLP_ENDPOINT` | where the collector is; by default `http://localhost:4317` |
| `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | who sends; by default `pairlens-server` |
| `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | which calls; else all |
| `OTEL_PROPAGATORS` | how parents are named; by default `tracecontext,baggage` |
| `OTEL_TRACES_EXPORTER` | `otlp`, `console` or `none` |

Spans are made when a call has ended, and dropped where no collector answers: no call waits for
one.
"""


def page() -> str:
    """The text of the page."""
    parts = [_HEAD]
    for title, metrics in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(metric) for metric in metrics]
        if title == "Process":
            parts.append(
                "Besides these there are `process_*` (memory, CPU, descriptors), `python_info` and "
                "`python_gc_*`, as every Python program exports them.\n"
            )
    parts.append(_TAIL)
    return "\n".join(parts)


def _entry(metric: Metric) -> str:
    facts = [metric.kind.value]
    if metric.buckets is not None:
        facts.append(f"buckets {_buckets(metric.buckets)}")
    lines = [f"### {metric.name}", "", metric.help, "", " · ".join(facts)]
    if metric.labels:
        lines += ["", *(_label(label) for label in metric.labels)]
    if metric is STAGE_DURATION:
        lines += ["", "| stage | what a call does |", "|---|---|"]
        lines += [f"| `{stage.value}` | {text} |" for stage, text in STAGES.items()]
    if metric.query:
        lines += ["", "```promql", metric.query, "```"]
    return "\n".join(lines) + "\n"


def _label(label: Label) -> str:
    if isinstance(label.values, str):
        return f"- `{label.name}`: {label.values}"
    return f"- `{label.name}`: " + ", ".join(f"`{value}`" for value in label.values)


def _buckets(buckets: Buckets) -> str:
    if buckets is Buckets.LATENCY:
        bounds = ServerSettings.model_fields["latency_buckets_s"].default.split(",")
        return f"{float(bounds[0]):g} … {float(bounds[-1]):g} (`latency_buckets_s`)"
    return ", ".join(f"{bound:g}" for bound in BOUNDS[buckets])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
