"""Rate, errors and duration of each RPC, and where calls spend their time."""

from __future__ import annotations

from typing import Any

from dashboard.panel import Panel, Query, Row, chosen, mean, quantile, rate

_FAILURES = "=~UNKNOWN|INTERNAL|UNAVAILABLE"
_EXPLANATIONS = "=~Explain|PairSimilarity"
_RPC, _MODEL = "=~$rpc", "=~$model"
_HANDLED, _DURATION = "pairlens_rpc_handled_total", "pairlens_rpc_duration_seconds"
_STAGE, _LOOKUPS = "pairlens_stage_duration_seconds", "pairlens_cache_requests_total"

FAILED = ((0.001, "orange"), (0.0144, "red"))
REFUSED = ((0.01, "orange"), (0.2, "red"))
SLOW = ((2.5, "orange"), (10, "red"))
FULL = ((0.8, "orange"), (1, "red"))


def _calls(**matchers: str) -> str:
    return rate(_HANDLED, rpc=_RPC, **matchers)


def _number(title: str, expression: str, shows: str, red: str, **how: Any) -> Panel:
    return Panel(title, shows, red, [Query(expression)], kind="stat", width=3, height=4, **how)


_NUMBERS = (
    _number(
        "Replicas ready",
        f"sum({chosen('pairlens_ready')}) or vector(0)",
        "Servers that take calls.",
        "None is. See Models, versions and deploys for the state of each; runbook: "
        "PairlensNotReady, PairlensDown.",
        thresholds=((1, "green"),),
    ),
    _number(
        "Calls",
        f"sum({_calls()})",
        "Calls per second, all RPCs.",
        "Has no bound; a sudden 0 is a client's change, or a load balancer's.",
        unit="reqps",
    ),
    _number(
        "Failed",
        f"sum({_calls(code=_FAILURES)}) / (sum({_calls()}) > 0)",
        "Share of calls that failed by a fault of the server (UNKNOWN, INTERNAL, UNAVAILABLE). "
        "The objective is 0.1 %.",
        "The month's allowance burns 14 times too fast. See which RPC and code below; runbook: "
        "PairlensErrorRate.",
        unit="percentunit",
        thresholds=FAILED,
    ),
    _number(
        "Refused or late",
        f"(sum({rate('pairlens_rejected_total', reason='QUEUE_FULL')}) "
        f"+ sum({rate(_HANDLED, code='DEADLINE_EXCEEDED')})) / (sum({rate(_HANDLED)}) > 0)",
        "Share of calls that find no room, or run out of time, before or while they are worked on.",
        "A replica whose device is never busy stands still: delete its pod. Else add replicas, "
        "then see who sends so much; runbook: PairlensRejecting.",
        unit="percentunit",
        thresholds=REFUSED,
    ),
    _number(
        "p99 of explanations",
        quantile(0.99, _DURATION, "job", rpc=_EXPLANATIONS, model=_MODEL),
        "99 % of Explain and PairSimilarity calls take at most this. The objective is 2.5 s.",
        "See Stages for what grew; runbook: PairlensSlow.",
        unit="s",
        thresholds=SLOW,
    ),
    _number(
        "Fullest queue",
        "max(sum by (namespace, pod, instance) "
        f"({chosen('pairlens_queue_depth')}) / sum by (namespace, pod, instance) "
        f"({chosen('pairlens_queue_limit')}))",
        "Of the replicas' queues, the fullest; 100 % refuses.",
        "If all are full add replicas; if one is, calls are not spread; runbook: "
        "PairlensQueueFull.",
        unit="percentunit",
        thresholds=FULL,
    ),
    _number(
        "Answered by the cache",
        f"sum({rate(_LOOKUPS, result='hit')}) / (sum({rate(_LOOKUPS, tier='memory')}) > 0)",
        "Look-ups that memory or Redis answered; what is missed is computed on a device.",
        "There is no bound that is right for all. Much less than usual: runbook PairlensCacheCold.",
        unit="percentunit",
    ),
    _number(
        "Alerts",
        'count(ALERTS{alertname=~"Pairlens.*",alertstate="firing"}) or vector(0)',
        "Alerts of pairlens that fire.",
        "Open Prometheus' page of alerts; each says what to do first and has a runbook entry.",
        thresholds=((1, "red"),),
    ),
)

OVERVIEW = Row(
    "Overview: rate, errors and duration of each RPC",
    (
        *_NUMBERS,
        Panel(
            "Calls by RPC",
            "Calls per second that ended, however they did.",
            "Has no bound. A step says that a client began or stopped; the log names it.",
            [Query(f"sum by (rpc) ({_calls()}) > 0", "{{rpc}}")],
            unit="reqps",
        ),
        Panel(
            "Calls that did not end OK",
            "Per second, by RPC and status code.",
            "INTERNAL, UNKNOWN: a bug or a broken device; find the request id in the log. "
            "UNAVAILABLE: replicas start or stop. RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED: too "
            "little room. Others are the caller's.",
            [Query(f"sum by (rpc, code) ({_calls(code='!=OK')}) > 0", "{{rpc}} {{code}}")],
            unit="reqps",
        ),
        Panel(
            "Failed, by RPC",
            "Share of calls that failed by a fault of the server. Dashed: the objective, and the "
            "rate that pages.",
            "One RPC: its code. All: the device, or a rollout; compare replicas. Runbook: "
            "PairlensErrorRate.",
            [
                Query(
                    f"sum by (rpc) ({_calls(code=_FAILURES)}) / (sum by (rpc) ({_calls()}) > 0)",
                    "{{rpc}}",
                )
            ],
            unit="percentunit",
            thresholds=FAILED,
        ),
        Panel(
            "Median duration by RPC",
            "Half of the calls take at most this.",
            "Rises with the queue or a cold cache; see Stages and Cache.",
            [Query(quantile(0.5, _DURATION, "rpc", rpc=_RPC, model=_MODEL), "{{rpc}}")],
            unit="s",
        ),
        Panel(
            "p99 duration by RPC",
            "99 % of the calls take at most this. Dashed: bounds of ticket and page for Explain "
            "and PairSimilarity; ScoreSaliency and Warm take as long as they are asked to.",
            "See which stage grew; runbook: PairlensSlow.",
            [Query(quantile(0.99, _DURATION, "rpc", rpc=_RPC, model=_MODEL), "{{rpc}}")],
            unit="s",
            thresholds=SLOW,
        ),
        Panel(
            "p99 duration by model",
            "99 % of the calls to a model take at most this, chosen RPCs together. none: calls "
            "that name no model; unknown: models that are not served.",
            "One model alone: its weights changed, or somebody asks for dear methods of it.",
            [Query(quantile(0.99, _DURATION, "model", rpc=_RPC, model=_MODEL), "{{model}}")],
            unit="s",
        ),
        Panel(
            "Durations of explanations",
            "How many Explain and PairSimilarity calls took how long: the darker, the more. Cold "
            "and warm calls are bands of their own.",
            "The upper band grows: cold calls, or a queue. Both rise: the device or the processor.",
            [
                Query(
                    "sum by (le) (increase("
                    + chosen(f"{_DURATION}_bucket", rpc=_EXPLANATIONS, model=_MODEL)
                    + "[$__rate_interval]))",
                    "{{le}}",
                )
            ],
            unit="s",
            kind="heatmap",
        ),
        Panel(
            "Calls under way",
            "Calls that were let in and have not ended, by replica.",
            "Rises without end: the device or Redis stands still, see Queue. One replica far "
            "above the others: calls are not spread.",
            [Query(f"sum by (pod) ({chosen('pairlens_rpcs_in_flight')})", "{{pod}}")],
        ),
        Panel(
            "Failed calls by reason",
            "Per second, as the caller is told (ErrorInfo.reason).",
            "deploy/README.md says for each reason who has to do something.",
            [Query(f"sum by (reason) ({rate('pairlens_rejected_total')}) > 0", "{{reason}}")],
            unit="reqps",
        ),
    ),
)


def _of_stage(stage: str, by: str) -> str:
    return mean(_STAGE, by, stage=stage, model=_MODEL)


STAGES = Row(
    "Stages: where calls spend their time",
    (
        Panel(
            "Time of a call, by stage",
            "Mean seconds that a call spends in each stage. Pictures of a call are worked on side "
            "by side, so that stages may add up to more than the call.",
            "The stage that grew says where to look: queue: devices; compute: models and methods; "
            "cache_get: Redis; decode, encode: processor and image_threads.",
            [
                Query(
                    f"sum by (stage) ({rate(f'{_STAGE}_sum', model=_MODEL)}) / on () group_left () "
                    f"(sum({rate(f'{_DURATION}_count', model=_MODEL)}) > 0)",
                    "{{stage}}",
                )
            ],
            unit="s",
            stacked=True,
        ),
        Panel(
            "p99 by stage",
            "99 % of the calls in which a stage occurs spend at most this in it.",
            "As beside; a p99 far above the mean is one model, method or client.",
            [Query(quantile(0.99, _STAGE, "stage", model=_MODEL), "{{stage}}")],
            unit="s",
        ),
        Panel(
            "Waiting for the device, by model",
            "Mean seconds in the stage queue.",
            "Work comes faster than devices do it: add replicas.",
            [Query(_of_stage("queue", "model"), "{{model}}")],
            unit="s",
        ),
        Panel(
            "On the device, by method",
            "Mean seconds in the stage compute, by what was asked for.",
            "Methods that perturb take hundreds of passes. All rose: batches are larger, or the "
            "device is slow, hot or shared.",
            [Query(_of_stage("compute", "method"), "{{method}}")],
            unit="s",
        ),
        Panel(
            "On the device, by model",
            "Mean seconds in the stage compute.",
            "One model alone: other weights, input size or dtype since a reload.",
            [Query(_of_stage("compute", "model"), "{{model}}")],
            unit="s",
        ),
        Panel(
            "Decoding and drawing",
            "Mean seconds in the stages decode and encode.",
            "Larger pictures, or too few image_threads or cores; callers may send digests instead "
            "of pictures and draw themselves.",
            [Query(mean(_STAGE, "stage", stage="=~decode|encode", model=_MODEL), "{{stage}}")],
            unit="s",
        ),
    ),
)
