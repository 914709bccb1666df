"""Measure a shipped checkpoint: its class head, where its maps point, and its retrieval."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from data import load_boxes, load_caltech, load_tiny
from loop import say
from metrics import pointing, retrieval, top1
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


@torch.inference_mode()
def class_maps(net: DemoNet, images: Tensor, labels: Tensor, batch: int = 100) -> Tensor:
    """Return maps [n, h, h] of the logit of each label before pooling, which GradCAM shows."""
    weight = net.backbone.get_classifier().weight
    maps = []
    for part, label in zip(images.split(batch), labels.split(batch), strict=True):
        tokens = net.tokens(normalise(part.float() / 255))
        maps.append((tokens @ weight[label].unsqueeze(-1)).squeeze(-1))
    flat = torch.cat(maps)
    side = int(flat.shape[1] ** 0.5)
    return flat.unflatten(1, (side, side))


def measure(net: DemoNet, data: Path, cache: Path) -> dict[str, float]:
    """Return the metrics of `net` on Tiny ImageNet val and on the unseen Caltech-101 classes."""
    val = load_tiny(data, cache, "val", INPUT_SIZE)
    test = load_caltech(data, cache, "test", INPUT_SIZE)
    logits, _ = predict(net, val.images)
    _, embeddings = predict(net, test.images)
    maps = class_maps(net, val.images, val.labels)
    recall, precision = retrieval(embeddings, test.labels)
    return {
        "tiny_imagenet_val_top1": round(top1(logits, val.labels), 4),
        "tiny_imagenet_val_pointing": round(pointing(maps, load_boxes(data, val)), 4),
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
    say(json.dumps({"file": options.checkpoint.name, **metrics}, indent=2))


if __name__ == "__main__":
    main()
