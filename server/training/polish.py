"""Step 4b: make each place of the ViT speak for itself, so that its maps can be read.

After step 4 the ViT retrieves, but its maps do not show what matched: the norm before pooling gives
every patch the same length, so empty sky adds as much to the similarity as a bird, and a few
patches receive most of the attention, so rollout ends in spikes. Two losses mend that:

- places: the projected token of every patch follows the projected cell of the ResNet there, whose
  features are silent on empty ground;
- columns: in every block, each patch receives about as much attention as the others.

The projection starts as the least-squares map from the ViT's tokens to the ResNet's cells and
learns with the network, by ProxyAnchor as before. Its bias stays zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from augment import Strength, random_views
from data import ImageSet, load_caltech, load_tiny
from evaluate import predict
from finetune import PROXY_RATE, TEMPERATURE, Tuner, start
from loop import (
    Average,
    Progress,
    adamw,
    base_parser,
    epoch_batches,
    load_checkpoint,
    one_cycle,
    save_checkpoint,
    say,
    set_rate,
)
from metrics import top1
from nets import (
    CLASSES,
    INPUT_SIZE,
    DemoNet,
    gather_tokens,
    load_half,
    load_trained,
    normalise,
    random_keep,
)
from parallel import average_gradients, launch, mine, rank, workers
from regions import enlarge
from torch import Tensor, nn

WEIGHTS = {
    "label": 1.0,
    "teacher": 2.0,
    "metric": 0.3,
    "embedding": 4.0,
    "places": 6.0,
    "columns": 0.5,
}
RIDGE = 1e-2  # of the mean variance of the tokens


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = base_parser(__doc__, epochs=8, batch=32, rate=4e-4)
    parser.add_argument("--init", required=True, help="checkpoint of finetune.py, in --out")
    parser.add_argument("--teacher", required=True, help="safetensors file of the ResNet")
    parser.add_argument("--name", required=True, help="name of the checkpoint to write, in --out")
    parser.add_argument("--size", type=int, default=96, help="side of the views, pixels")
    parser.add_argument("--drop", type=float, default=0.5, help="share of patches left out")
    parser.add_argument("--tiny", type=int, default=64, help="Tiny ImageNet pictures a step")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of AdamW")
    parser.set_defaults(model="demo-vit")
    return parser.parse_args()


@contextmanager
def received(net: DemoNet) -> Iterator[list[Tensor]]:
    """Collect, for each block, how much attention each patch receives [B, N], 1 on average."""
    columns: list[Tensor] = []

    def tap(attention: nn.Module):
        def hook(_module: nn.Module, _inputs: object, qkv: Tensor) -> None:
            batch, count, _ = qkv.shape
            split = qkv.view(batch, count, 3, attention.num_heads, -1)
            queries, keys = split[:, :, 0].transpose(1, 2), split[:, :, 1].transpose(1, 2)
            weights = (queries * attention.scale @ keys.mT).float().softmax(-1)
            columns.append(weights.mean(1).sum(1))

        return hook

    handles = [b.attn.qkv.register_forward_hook(tap(b.attn)) for b in net.backbone.blocks]
    try:
        yield columns
    finally:
        for handle in handles:
            handle.remove()


def teacher_cells(teacher: DemoNet, views: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the ResNet's projected cells on a grid [B, side * side, 128], and its logits."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tokens = teacher.tokens(views).float()
    logits, _ = teacher.read(tokens.mean(1))
    cells = teacher.projection(tokens)
    coarse = views.shape[-1] // 16
    cells = enlarge(cells.transpose(1, 2).unflatten(2, (coarse, coarse)), side)
    return cells.flatten(2).transpose(1, 2), logits


@torch.no_grad()
def fit_places(net: DemoNet, teacher: DemoNet, images: Tensor, size: int) -> None:
    """Set the projection to the least-squares map from tokens to the ResNet's cells."""
    width = net.backbone.num_features
    inner, cross = torch.zeros(width, width), torch.zeros(width, net.projection.out_features)
    for part in images.split(64):
        gen = torch.Generator().manual_seed(0)
        views = normalise(random_views(part, size, gen, Strength()))
        views = views.contiguous(memory_format=torch.channels_last)
        cells, _ = teacher_cells(teacher, views, size // 8)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = net.tokens(views).float().flatten(0, 1)
        inner += tokens.T @ tokens
        cross += tokens.T @ cells.flatten(0, 1)
    inner += RIDGE * inner.diagonal().mean() * torch.eye(width)
    net.projection.weight.copy_(torch.linalg.solve(inner, cross).T)
    net.projection.bias.zero_()
    net.projection.bias.requires_grad_(False)


def losses(
    tuner: Tuner, teacher: DemoNet, views: Tensor, labels: Tensor, keep: Tensor | None
) -> dict[str, Tensor]:
    """Return the parts of the loss of views [B, 3, H, W] with labels as in finetune.py."""
    views = views.contiguous(memory_format=torch.channels_last)
    with received(tuner.net) as columns, torch.autocast("cpu", torch.bfloat16):
        tokens = tuner.net.tokens(views, keep)
    tokens = tokens.float()
    logits, embeddings = tuner.net.read(tokens.mean(1))
    cells, wanted = teacher_cells(teacher, views, views.shape[-1] // 8)
    cells = cells if keep is None else gather_tokens(cells, keep)
    known = labels < CLASSES
    spread = cells.std() + 1e-6
    return {
        "label": F.cross_entropy(logits[known], labels[known], label_smoothing=0.1),
        "metric": tuner.metric(embeddings[~known], labels[~known] - CLASSES),
        "teacher": F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1),
            F.log_softmax(wanted / TEMPERATURE, dim=1),
            log_target=True,
            reduction="batchmean",
        ),
        "embedding": 1 - F.cosine_similarity(embeddings, cells.mean(1)).mean(),
        "places": F.smooth_l1_loss(tuner.net.projection(tokens) / spread, cells / spread),
        "columns": torch.stack([(c - 1).square().mean() for c in columns]).mean(),
    }


def run_epoch(
    tuner: Tuner,
    teacher: DemoNet,
    optimizer: torch.optim.Optimizer,
    average: Average,
    sets: tuple[ImageSet, ImageSet],
    progress: Progress,
    epoch: int,
    options: argparse.Namespace,
) -> None:
    """Train one pass over Caltech-101, with as much of Tiny ImageNet as `--tiny` asks for."""
    caltech, tiny = sets
    order = torch.Generator().manual_seed(options.seed * 1000 + epoch)
    gen = torch.Generator().manual_seed(options.seed * 1000 + epoch + 500 + 1000 * rank())
    tuner.train()
    for rows in epoch_batches(len(caltech), options.batch, order):
        set_rate(optimizer, one_cycle(progress.step, progress.total))
        rows = mine(rows)
        others = torch.randint(len(tiny), (options.tiny // workers(),), generator=gen)
        views = [
            random_views(tiny.images[others], options.size, gen, Strength()),
            random_views(caltech.images[rows], options.size, gen, Strength()),
        ]
        labels = torch.cat([tiny.labels[others], caltech.labels[rows] + CLASSES])
        keep = random_keep(len(labels), (options.size // 8) ** 2, options.drop, gen)
        parts = losses(tuner, teacher, normalise(torch.cat(views)), labels, keep)
        optimizer.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * part for name, part in parts.items()).backward()
        average_gradients(tuner)
        nn.utils.clip_grad_norm_(tuner.net.parameters(), 5.0)
        optimizer.step()
        average.update(tuner)
        progress.add(
            options.batch + options.tiny, **{name: part.item() for name, part in parts.items()}
        )


def train(options: argparse.Namespace) -> None:
    """Train and write `--name` in `--out` after every epoch; resumes from there."""
    torch.manual_seed(options.seed)
    cache = options.out / "cache"
    tiny = load_tiny(options.data, cache, "train")
    caltech = load_caltech(options.data, cache, "train", 144)
    teacher = load_half(options.teacher).requires_grad_(False).eval()
    teacher = teacher.to(memory_format=torch.channels_last)
    tuner = start(options, len(caltech.classes))
    fit_places(tuner.net, teacher, caltech.images[::3], options.size)
    parts = [(tuner.net, options.rate), (tuner.metric, PROXY_RATE)]
    optimizer = adamw(parts, options.weight_decay, (0.9, 0.99))
    average = Average(tuner, 0.99)
    path, first = options.out / options.name, 0
    if saved := load_checkpoint(path):
        tuner.load_state_dict(saved["raw"])
        optimizer.load_state_dict(saved["optimizer"])
        average.state, average.steps = saved["net"], saved["steps"]
        first = saved["epoch"] + 1
    per_epoch = len(caltech) // options.batch
    progress = Progress(per_epoch * options.epochs, per_epoch * first)
    for epoch in range(first, options.epochs):
        run_epoch(tuner, teacher, optimizer, average, (caltech, tiny), progress, epoch, options)
        if rank():
            continue
        save_checkpoint(
            path,
            net=average.state,
            raw=tuner.state_dict(),
            optimizer=optimizer.state_dict(),
            steps=average.steps,
            epoch=epoch,
        )
    if not rank():
        val = load_tiny(options.data, cache, "val", INPUT_SIZE)
        network = load_trained(path, options.model)
        say(f"top-1 {top1(predict(network, val.images)[0], val.labels):.4f}")


if __name__ == "__main__":
    given = parse()
    launch(train, given)
