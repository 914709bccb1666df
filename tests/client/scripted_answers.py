"""What the scripted server answers: small numbers that tests know by heart."""

from __future__ import annotations

import io

import numpy as np
from google.protobuf.duration_pb2 import Duration
from PIL import Image

from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2

ROWS, COLUMNS = 2, 3
BLOCKS, HEADS = 12, 3
MASK = np.array([[1, 0, 0], [0, 1, 0]], bool)
KEYPOINTS = np.array([[0, 2, 0], [1, 0, 5]])
DTYPES = {
    "float32": common_pb2.DATA_TYPE_FLOAT32,
    "int64": common_pb2.DATA_TYPE_INT64,
    "bool": common_pb2.DATA_TYPE_BOOL,
}


def tensor(array: np.ndarray, dtype: str = "float32") -> common_pb2.Tensor:
    array = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
    return common_pb2.Tensor(dtype=DTYPES[dtype], shape=array.shape, data=array.tobytes())


def heatmap(image: bytes, *, scale: float = 1.0) -> common_pb2.Heatmap:
    """Values 0, 1, ... on ROWS x COLUMNS over the whole picture."""
    with Image.open(io.BytesIO(image)) as picture:
        width, height = picture.size
    values = scale * np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
    return common_pb2.Heatmap(
        values=tensor(values),
        min=values.min(),
        max=values.max(),
        geometry=common_pb2.GridGeometry(
            rows=ROWS,
            columns=COLUMNS,
            image_height=height,
            image_width=width,
            region=common_pb2.Box(left=0, top=0, right=width, bottom=height),
        ),
    )


def provenance(model: str, method: str) -> common_pb2.Provenance:
    return common_pb2.Provenance(
        model=model,
        model_fingerprint="f00d",
        method=method,
        method_revision=3,
        preprocessing_digest="beef",
        dtype="float32",
        device="cpu",
        server_version="9.9",
    )


def timing() -> common_pb2.Timing:
    return common_pb2.Timing(
        total=Duration(seconds=1, nanos=500_000_000),
        cached_images=1,
        images=2,
        cache=Duration(nanos=250_000_000),
    )


def explained(
    request: explanation_service_pb2.ExplainRequest, drawn: common_pb2.Heatmap
) -> explanation_service_pb2.ExplainResponse:
    """The answer of Explain, with all that its method gives."""
    method = request.method
    name = method.WhichOneof("method")
    if name is None:
        name = "affinity" if request.target.HasField("similarity") else "rollout"
        message = {} if name == "affinity" else {"start_block": 0, "end_block": 11}
        method = methods_pb2.ExplanationMethod(**{name: message})
    response = explanation_service_pb2.ExplainResponse(
        heatmap=drawn, method=method, provenance=provenance(request.model, name), timing=timing()
    )
    if request.target.HasField("similarity"):
        similar = request.target.similarity
        count = len(similar.images) + (list(similar.embeddings.shape) or [0])[0]
        response.target.similarities.extend([0.25] * count)
    elif name == "grad_cam":
        response.target.CopyFrom(
            explanation_service_pb2.ResolvedTarget(
                class_index=request.target.class_index or 1,
                label=request.target.label or "goldfish",
                logit=2.5,
                probability=0.75,
            )
        )
    {
        "attention_mask": _masked,
        "hidden_unit": _units,
        "semantic_attention": _interrelations,
        "raw_attention": _panels,
    }.get(name, lambda _: None)(response)
    return response


def _panels(response: explanation_service_pb2.ExplainResponse) -> None:
    """Every head and block that was asked for; the numbers grow with both."""
    asked = response.method.raw_attention
    if asked.each in (methods_pb2.EACH_UNSPECIFIED, methods_pb2.EACH_NONE):
        return
    last = asked.block if asked.HasField("block") else BLOCKS - 1
    blocks = [last] if asked.each == methods_pb2.EACH_HEAD else range(BLOCKS)
    heads = range(HEADS)
    if asked.each == methods_pb2.EACH_BLOCK:
        heads = [asked.head if asked.HasField("head") else None]
    for block in blocks:
        for head in heads:
            panel = response.panels.add(heatmap=response.heatmap, block=block, head=head)
            shifted = np.roll(np.arange(ROWS * COLUMNS), block + (head or 0))
            panel.heatmap.values.CopyFrom(tensor(shifted.reshape(ROWS, COLUMNS)))


def _masked(response: explanation_service_pb2.ExplainResponse) -> None:
    response.mask.CopyFrom(tensor(MASK, "bool"))
    for block in response.method.attention_mask.blocks:
        mask = MASK if block % 2 else ~MASK
        response.panels.add(heatmap=response.heatmap, block=block, mask=tensor(mask, "bool"))


def _units(response: explanation_service_pb2.ExplainResponse) -> None:
    for unit, strength in ((41, 0.75), (7, 0.5)):
        response.units.add(unit=unit, strength=strength)
        response.panels.add(heatmap=response.heatmap, block=11, unit=unit)


def _interrelations(response: explanation_service_pb2.ExplainResponse) -> None:
    """KK grows with depth, NK is unset in block 1, the focus index falls."""
    response.keypoints.CopyFrom(tensor(KEYPOINTS, "int64"))
    for block in range(BLOCKS):
        for head in range(HEADS):
            kk, nk = (4 + block + head) / 32, (16 - block) / 32
            found = response.interrelations.add(
                block=block, head=head, kk=kk, kn=1 - kk, focus_index=30 - 2 * block + head
            )
            if block != 1:
                found.nk, found.nn = nk, 1 - nk
