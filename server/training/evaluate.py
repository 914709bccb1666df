"""Measure a shipped checkpoint: top-1 of the class head, and retrieval of unseen classes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from data import load_caltech, load_tiny
from metrics import retrieval, top1
from nets import INPUT_SIZE, DemoNet, load_half, normalise
from torch import Tensor


@torch.inference_mode()
def predict(
    net: DemoNet, images: Tensor, size: int | None = None, batch: int = 100
) -> tuple[Tensor, Tensor]:
    """Return class logits [n, 200] and embeddings [n, 128], in single precision.

    `images` are uint8 [n, 3, h, w]; `size` resamples them first (for quick looks in training).
    """
    net.eval()
    logits, embeddings = [], []
    for part in images.split(batch):
        pixels = part.float() / 255
        if size and size != pixels.shape[-1]:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        _, logit, embedding = net(normalise(pixels))
        logits.append(logit)
        embeddings.append(embedding)
    return torch.cat(logits), torch.cat(embeddings)


def measure(net: DemoNet, data: Path, cache: Path) -> dict[str, float]:
    """Return the metrics of `net` on Tiny ImageNet val and on the unseen Caltech-101 classes."""
    val = load_tiny(data, cache, "val", INPUT_SIZE)
    test = load_caltech(data, cache, "test", INPUT_SIZE)
    logits, _ = predict(net, val.images)
    _, embeddings = predict(net, test.images)
    recall, precision = retrieval(embeddings, test.labels)
    return {
        "tiny_imagenet_val_top1": round(top1(logits, val.labels), 4),
        "caltech101_unseen_recall_at_1": round(recall, 4),
        "caltech101_unseen_map_at_r": round(precision, 4),
    }


def main() -> None:
    """Print the metrics as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file that export.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for decoded pictures")
    options = parser.parse_args()
    metrics = measure(load_half(options.checkpoint), options.data, options.out / "cache")
    print(json.dumps({"file": options.checkpoint.name, **metrics}, indent=2))


if __name__ == "__main__":
    main()
