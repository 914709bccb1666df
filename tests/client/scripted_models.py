"""The models that the scripted server says it serves."""

from __future__ import annotations

from pairlens.v1 import methods_pb2, model_service_pb2
from tests.client.scripted_scores import EMBEDDING_SIZE, metric_infos

EXPLANATION = model_service_pb2.METHOD_KIND_EXPLANATION
PAIR = model_service_pb2.METHOD_KIND_PAIR


def _parameter(name: str, **fields: object) -> model_service_pb2.ParameterInfo:
    return model_service_pb2.ParameterInfo(name=name, description=f"about {name}", **fields)


def _explaining(name: str, cost: float, **fields: object) -> model_service_pb2.MethodInfo:
    return model_service_pb2.MethodInfo(
        name=name,
        kind=EXPLANATION,
        summary=f"shows {name}",
        forward_passes=cost,
        source=f"Author of {name}, 2020",
        **fields,
    )


def limits() -> model_service_pb2.Limits:
    return model_service_pb2.Limits(
        max_request_bytes=1 << 20,
        max_candidates=4,
        max_target_embeddings=9,
        max_metrics=16,
        max_copies=4096,
        image_formats=["PNG"],
        max_digests=64,
        max_queued_cost=512,
        keeps_images=True,
    )


def vit_info() -> model_service_pb2.ModelInfo:
    """Gives rollout (default) and more, no pairs."""
    rollout = methods_pb2.ExplanationMethod(rollout={"start_block": 0, "end_block": 11})
    affinity = methods_pb2.ExplanationMethod(affinity={})
    block = _parameter("block", type="int", minimum=0, maximum=11)
    return model_service_pb2.ModelInfo(
        name="vit",
        architecture="vit_tiny_patch16_224",
        family="vit",
        device="cpu",
        dtype="float32",
        input_height=224,
        input_width=224,
        grid_rows=14,
        grid_columns=14,
        blocks=12,
        heads=3,
        hidden_units=768,
        cam_layer="blocks.11.norm1",
        classes=2,
        labels=["[tench]", "goldfish"],
        pooling="token",
        preprocessing={"resize_mode": "crop", "crop_fraction": 0.875, "mean": [0.5] * 3},
        methods=[
            _explaining(
                "rollout",
                1,
                revision=3,
                explanation=rollout,
                parameters=[
                    _parameter("start_block", type="int", default_value="0", minimum=0, maximum=11),
                    _parameter(
                        "profile",
                        type="enum",
                        default_value="strict",
                        choices=["strict", "reference", "paper"],
                    ),
                ],
            ),
            _explaining("raw_attention", 1, parameters=[block]),
            _explaining("score_cam", 768, takes_class=True, caution="slow on a CPU"),
            _explaining("affinity", 1.5, takes_similarity=True, explanation=affinity),
            _explaining("attention_mask", 1),
            _explaining("semantic_attention", 1, parameters=[block]),
            model_service_pb2.MethodInfo(
                name="pooled_decomposition",
                kind=PAIR,
                refusal="its embedding is no sum over patches",
            ),
        ],
        default_explanation_method=rollout,
        default_similarity_method=affinity,
        embedding_size=EMBEDDING_SIZE,
        metrics=metric_infos(),
        random_twin="vit_random",
    )


def cnn_info() -> model_service_pb2.ModelInfo:
    """Gives GradCAM and pairs, by default."""
    pair = methods_pb2.PairMethod(pooled_decomposition={"profile": 1})
    cam = methods_pb2.ExplanationMethod(grad_cam={})
    return model_service_pb2.ModelInfo(
        name="cnn",
        architecture="resnet18",
        family="resnet",
        pooling="avg",
        methods=[
            model_service_pb2.MethodInfo(
                name="rollout", kind=EXPLANATION, refusal="it has no attention"
            ),
            _explaining("grad_cam", 1.25, takes_class=True, takes_similarity=True, explanation=cam),
            _explaining("pooled_decomposition", 1, takes_similarity=True),
            model_service_pb2.MethodInfo(name="pooled_decomposition", kind=PAIR, pair=pair),
            model_service_pb2.MethodInfo(name="correspondence", kind=PAIR),
        ],
        default_explanation_method=cam,
        default_pair_method=pair,
        embedding_size=EMBEDDING_SIZE,
        classes=2,
    )
