"""Step 1: teach the ResNet the 200 classes of Tiny ImageNet from scratch, at low resolution."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from augment import Strength, random_views
from data import load_tiny
from evaluate import predict
from loop import (
    Average,
    Progress,
    base_parser,
    epoch_batches,
    load_checkpoint,
    one_cycle,
    save_checkpoint,
    say,
    set_rate,
)
from metrics import top1
from nets import DemoNet, normalise


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = base_parser(__doc__, epochs=14, batch=128, rate=0.2)
    parser.add_argument("--size", type=int, default=64, help="side of the views, pixels")
    parser.add_argument("--early-size", type=int, default=48, help="side in the early epochs")
    parser.add_argument("--early", type=float, default=0.4, help="share of early epochs")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="of SGD, weights only")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the labels")
    return parser.parse_args()


def make_optimizer(net: DemoNet, options: argparse.Namespace) -> torch.optim.SGD:
    """Return SGD with momentum, where biases and norms do not decay."""
    weights = [p for p in net.backbone.parameters() if p.ndim > 1]
    others = [p for p in net.backbone.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "peak": options.rate, "weight_decay": options.weight_decay},
        {"params": others, "peak": options.rate, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)


def main() -> None:
    """Train, resuming from the last whole epoch, and write `resnet-pretrained.pt`."""
    options = parse()
    torch.manual_seed(options.seed)
    train = load_tiny(options.data, options.out / "cache", "train")
    val = load_tiny(options.data, options.out / "cache", "val")
    net = DemoNet("demo-resnet").to(memory_format=torch.channels_last)
    optimizer = make_optimizer(net, options)
    average = Average(net, 0.998)
    path = options.out / "resnet-pretrain.pt"
    first = 0
    if saved := load_checkpoint(path):
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        average.state, average.steps = saved["average"], saved["steps"]
        first = saved["epoch"] + 1
    per_epoch = len(train) // options.batch
    progress = Progress(per_epoch * options.epochs, per_epoch * first)
    for epoch in range(first, options.epochs):
        early = epoch < options.early * options.epochs
        run_epoch(net, optimizer, average, train, progress, epoch, early, options)
        save_checkpoint(
            path,
            net=net.state_dict(),
            optimizer=optimizer.state_dict(),
            average=average.state,
            steps=average.steps,
            epoch=epoch,
        )
        measured = DemoNet("demo-resnet")
        measured.load_state_dict(average.state)
        logits = predict(measured, val.images, size=options.size)[0]
        say(f"epoch {epoch}: top-1 {top1(logits, val.labels):.4f} on val")
    save_checkpoint(options.out / "resnet-pretrained.pt", net=average.state)


def run_epoch(net, optimizer, average, train, progress, epoch, early, options) -> None:
    """Train one epoch; its order and views depend on the seed and the epoch alone."""
    gen = torch.Generator().manual_seed(options.seed * 1000 + epoch)
    size = options.early_size if early else options.size
    net.train()
    for rows in epoch_batches(len(train), options.batch, gen):
        set_rate(optimizer, one_cycle(progress.step, progress.total))
        views = normalise(random_views(train.images[rows], size, gen, Strength()))
        views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net.backbone(views)
        loss = F.cross_entropy(
            logits.float(), train.labels[rows], label_smoothing=options.smoothing
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update(net)
        progress.add(len(rows), loss=loss.item())


if __name__ == "__main__":
    main()
