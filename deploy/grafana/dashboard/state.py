"""The caches, and which models and versions run where."""

from __future__ import annotations

from dashboard.overview import FULL
from dashboard.panel import WIDTH, Panel, Query, Row, chosen, quantile, rate

_REQUESTS = "pairlens_cache_requests_total"

CACHE = Row(
    "Cache",
    (
        Panel(
            "Answered by the cache",
            "Share of look-ups that were answered: by either tier, by memory, and by Redis of what "
            "memory had not.",
            "Fell: new weights begin cold, Redis was emptied, or pictures are new. Runbook: "
            "PairlensCacheCold.",
            [
                Query(
                    f"sum({rate(_REQUESTS, result='hit')}) / "
                    f"(sum({rate(_REQUESTS, tier='memory')}) > 0)",
                    "either",
                ),
                Query(
                    f"sum by (tier) ({rate(_REQUESTS, result='hit')}) / "
                    f"(sum by (tier) ({rate(_REQUESTS)}) > 0)",
                    "{{tier}}",
                ),
            ],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Look-ups",
            "Per second, by tier and result; Redis is asked for what memory has not.",
            "corrupt: something else writes under our prefix, or memory is bad. Hits of Redis "
            "only: cache_bytes is too small for what is asked often.",
            [Query(f"sum by (tier, result) ({rate(_REQUESTS)})", "{{tier}} {{result}}")],
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Memory of caches",
            "Of cache_bytes and image_cache_bytes, by replica and kind; full is what they are "
            "made for.",
            "Has no bound. Never full: cache_bytes could be smaller.",
            [
                Query(
                    f"sum by (pod, kind) ({chosen('pairlens_cache_bytes')}) / "
                    f"(sum by (pod, kind) ({chosen('pairlens_cache_bytes_limit')}) > 0)",
                    "{{pod}} {{kind}}",
                )
            ],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Stored, made room for, not stored",
            "Values per second: stored by tier, evicted from memory, dropped by tier.",
            "dropped redis: it is slow, away, or values are above redis_max_value_bytes. dropped "
            "memory: values larger than the cache.",
            [
                Query(f"sum by (tier) ({rate('pairlens_cache_stored_total')})", "stored {{tier}}"),
                Query(f"sum ({rate('pairlens_cache_evicted_total')})", "evicted memory"),
                Query(
                    f"sum by (tier) ({rate('pairlens_cache_dropped_total')})", "dropped {{tier}}"
                ),
            ],
            unit="ops",
        ),
        Panel(
            "Redis",
            "Whether each replica uses Redis, or leaves it alone since it does not answer.",
            "Calls go on, colder. All replicas: Redis, its password, a NetworkPolicy. One: its "
            "node. Runbook: PairlensRedisDown.",
            [Query(f"min by (pod) ({chosen('pairlens_redis_up')})", "{{pod}}")],
            kind="state-timeline",
            values={0: ("away", "red"), 1: ("used", "green")},
        ),
        Panel(
            "p99 of Redis, by operation",
            "99 % of the round trips take at most this, failed ones too; those for many keys take "
            "longer.",
            "Near redis_timeout_ms: Redis is overloaded or far away; see its slow log and its "
            "network.",
            [
                Query(
                    quantile(0.99, "pairlens_redis_operation_seconds", "operation"),
                    "{{operation}}",
                )
            ],
            unit="s",
        ),
        Panel(
            "Errors of Redis",
            "Round trips per second that failed, by kind.",
            "timeout: slow or frozen; error: refused, wrong password, out of memory. The log has "
            "the words.",
            [Query(f"sum by (kind) ({rate('pairlens_redis_errors_total')})", "{{kind}}")],
            unit="ops",
        ),
        Panel(
            "Waiting to be written to Redis",
            "Of what may wait (redis_max_queued_bytes), by replica.",
            "Redis takes less than is computed; further values are not written, which costs "
            "nobody else.",
            [
                Query(
                    f"sum by (pod) ({chosen('pairlens_redis_queued_bytes')}) / "
                    f"sum by (pod) ({chosen('pairlens_redis_queued_bytes_limit')})",
                    "{{pod}}",
                )
            ],
            unit="percentunit",
            thresholds=FULL,
        ),
    ),
)

MODELS = Row(
    "Models, versions and deploys",
    (
        Panel(
            "State of replicas",
            "Ready, draining, or neither: loading, or broken.",
            "Ask it why: curl POD:9464/readyz. Runbook: PairlensNotReady.",
            [
                Query(
                    f"max by (pod) ({chosen('pairlens_ready')} "
                    f"+ 2 * {chosen('pairlens_draining')})",
                    "{{pod}}",
                )
            ],
            kind="state-timeline",
            values={0: ("not ready", "red"), 1: ("ready", "green"), 2: ("draining", "orange")},
        ),
        Panel(
            "Since the last start",
            "Of each replica; a saw is a crash loop.",
            "Why did it end? kubectl describe pod, kubectl logs --previous. Runbook: "
            "PairlensRestarting.",
            [
                Query(
                    f"time() - max by (pod) ({chosen('process_start_time_seconds')})",
                    "{{pod}}",
                )
            ],
            unit="s",
        ),
        Panel(
            "Versions of each model",
            "How many different ones replicas serve under one name; 1, but for the time of a "
            "rollout.",
            "A replica missed a reload or failed it; reload there. Runbook: PairlensModelsDiffer.",
            [
                Query(
                    "count by (model) (count by (model, fingerprint) "
                    f"({chosen('pairlens_model_info', model='=~$model')}))",
                    "{{model}}",
                )
            ],
            thresholds=((2, "red"),),
        ),
        Panel(
            "Changes of models",
            "Models added, replaced and removed by reloads, and reloads of them that failed.",
            "failed: the old one is served on; mend the models file or the checkpoint and reload. "
            "Runbook: PairlensModelReloadFailed.",
            [
                Query(
                    "sum by (change) (increase("
                    + chosen("pairlens_model_changes_total")
                    + "[$__rate_interval]))",
                    "{{change}}",
                )
            ],
        ),
        Panel(
            "Versions of pairlens",
            "Replicas by version of the server and of what it runs on.",
            "Two versions are a rollout; if it stands still, finish it or roll back.",
            [
                Query(
                    "count by (version, python, torch, timm, grpc) "
                    f"({chosen('pairlens_build_info')})"
                )
            ],
            kind="table",
            width=16,
            columns={
                "version": "pairlens",
                "python": "Python",
                "torch": "PyTorch",
                "timm": "timm",
                "grpc": "gRPC",
                "Value": "replicas",
            },
        ),
        Panel(
            "Served models",
            "What each replica serves, and where it runs.",
            "A model that is missing on one replica failed to load there: see its log.",
            [Query(chosen("pairlens_model_info", model="=~$model"))],
            kind="table",
            width=WIDTH,
            columns={
                "pod": "replica",
                "model": "model",
                "architecture": "architecture",
                "family": "family",
                "dtype": "dtype",
                "device": "device",
                "fingerprint": "fingerprint",
            },
        ),
    ),
)
