"""The models that the scripted server says it serves."""

from __future__ import annotations

from pairlens.v1 import methods_pb2, model_service_pb2


def _parameter(name: str, **fields: object) -> model_service_pb2.ParameterInfo:
    return model_service_pb2.ParameterInfo(name=name, description=f"about {name}", **fields)


def vit_info() -> model_service_pb2.ModelInfo:
    """Gives rollout (default) and raw attention, no pairs."""
    rollout = methods_pb2.ExplanationMethod(rollout={"start_block": 0, "end_block": 11})
    explanation = model_service_pb2.METHOD_KIND_EXPLANATION
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
        classes=2,
        labels=["[tench]", "goldfish"],
        pooling="token",
        preprocessing={"resize_mode": "crop", "crop_fraction": 0.875, "mean": [0.5] * 3},
        methods=[
            model_service_pb2.MethodInfo(
                name="rollout",
                kind=explanation,
                summary="shows",
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
            model_service_pb2.MethodInfo(
                name="raw_attention", kind=explanation, summary="shows attention"
            ),
            model_service_pb2.MethodInfo(
                name="pooled_decomposition",
                kind=model_service_pb2.METHOD_KIND_PAIR,
                refusal="its embedding is no sum over patches",
            ),
        ],
        default_explanation_method=rollout,
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
                name="rollout",
                kind=model_service_pb2.METHOD_KIND_EXPLANATION,
                refusal="it has no attention",
            ),
            model_service_pb2.MethodInfo(
                name="grad_cam",
                kind=model_service_pb2.METHOD_KIND_EXPLANATION,
                takes_target=True,
                explanation=cam,
            ),
            model_service_pb2.MethodInfo(
                name="pooled_decomposition", kind=model_service_pb2.METHOD_KIND_PAIR, pair=pair
            ),
        ],
        default_explanation_method=cam,
        default_pair_method=pair,
    )
