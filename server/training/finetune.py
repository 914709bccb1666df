"""Steps 2 and 4: learn retrieval on Caltech-101 and keep Tiny ImageNet's classes.

Every step sees pictures of both sets. Retrieval is learned by ProxyAnchor through a provisional
projection, the class head by cross entropy, and part of the steps are on mixed pictures
(regions.py). With `--teacher`, a ViT also follows the fine-tuned ResNet: its features at each
place, its logits and its embedding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from augment import Strength, random_views
from data import ImageSet, held_out_classes, load_caltech, load_tiny
from evaluate import predict
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
from metrics import retrieval, top1
from nets import (
    ARCHITECTURES,
    CLASSES,
    EMBEDDING,
    INPUT_SIZE,
    DemoNet,
    gather_tokens,
    load_trained,
    normalise,
    random_keep,
    sub_state,
)
from parallel import average_gradients, launch, mine, rank, workers
from pytorch_metric_learning.losses import ProxyAnchorLoss
from regions import enlarge, mix, pool
from torch import Tensor, nn

TEMPERATURE = 2.0
PROXY_RATE = 1e-2  # proxies start anywhere and must arrive before the network settles
WEIGHTS = {"label": 1.0, "metric": 0.5, "dense": 4.0, "teacher": 3.0, "embedding": 4.0}


class Tuner(nn.Module):
    """The network, the proxies of the training classes, and the map to the teacher's features."""

    def __init__(self, name: str, classes: int, size: int) -> None:
        """Make room for `classes` in the retrieval loss; `size` is the side of the views."""
        super().__init__()
        self.net = DemoNet(name, **({"img_size": size} if name == "demo-vit" else {}))
        self.metric = ProxyAnchorLoss(classes, EMBEDDING, margin=0.1, alpha=32)
        self.adapter = nn.Linear(self.net.backbone.num_features, 512)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = base_parser(__doc__, epochs=16, batch=32, rate=3e-4)
    parser.add_argument("model", choices=ARCHITECTURES)
    parser.add_argument("--init", required=True, help="checkpoint to start from, in --out")
    parser.add_argument("--teacher", help="checkpoint of the fine-tuned ResNet, in --out")
    parser.add_argument("--name", required=True, help="name of the checkpoint to write, in --out")
    parser.add_argument("--size", type=int, default=INPUT_SIZE, help="side of the views, pixels")
    parser.add_argument("--drop", type=float, default=0.0, help="share of patches a ViT leaves out")
    parser.add_argument("--tiny", type=int, default=64, help="Tiny ImageNet pictures a step")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of AdamW")
    parser.add_argument("--mixed", type=float, default=0.5, help="share of steps on mixed pictures")
    parser.add_argument(
        "--develop", action="store_true", help="hold ten classes of Caltech-101 out and measure"
    )
    parser.add_argument("--every", type=int, default=4, help="epochs between checkpoints")
    return parser.parse_args()


def start(options: argparse.Namespace, classes: int) -> Tuner:
    """Return the tuner with the weights of `--init`, from whichever step that comes."""
    tuner = Tuner(options.model, classes, options.size)
    state = load_checkpoint(options.out / options.init)["net"]
    tuner.net = load_trained(options.out / options.init, options.model, options.size)
    for name, part in (("adapter.", tuner.adapter), ("metric.", tuner.metric)):
        if trained := sub_state(state, name):
            part.load_state_dict(trained)
    return tuner if tuner.net.is_vit else tuner.to(memory_format=torch.channels_last)


def losses(tuner, views, labels, inside, keep, teacher) -> dict[str, Tensor]:
    """Return the parts of the loss.

    `labels` [B], or [2B] of mixed views, are 0..199 of Tiny ImageNet, then Caltech-101's;
    `inside` is bool [B, h, h] and `keep` [B, K], either of them None for whole pictures.
    """
    views = views.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tuner.net.tokens(views, keep)
    side = views.shape[-1] // (8 if tuner.net.is_vit else 16)
    if inside is not None:
        inside = enlarge(inside, side).flatten(1)
        inside = inside if keep is None else inside.gather(1, keep)
    tokens = tokens.float()
    logits, embeddings = tuner.net.read(pool(tokens, inside))
    known = labels < CLASSES
    parts = {
        "label": F.cross_entropy(logits[known], labels[known], label_smoothing=0.1),
        "metric": tuner.metric(embeddings[~known], labels[~known] - CLASSES),
    }
    if teacher is None:
        return parts
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        targets = teacher.tokens(views).float()
    coarse = views.shape[-1] // 16
    targets = enlarge(targets.transpose(1, 2).unflatten(2, (coarse, coarse)), side)
    targets = targets.flatten(2).transpose(1, 2)
    targets = targets if keep is None else gather_tokens(targets, keep)
    return parts | follow(tuner, teacher, tokens, targets, inside, logits, embeddings)


def follow(tuner, teacher, tokens, targets, inside, logits, embeddings) -> dict[str, Tensor]:
    """Return the distances from the teacher: features by place, logits and embedding by part."""
    with torch.no_grad():
        wanted, direction = teacher.read(pool(targets, inside))
        scaled = (targets - targets.mean((0, 1))) / (targets.std((0, 1)) + 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        guess = tuner.adapter(tokens).float()
    return {
        "dense": F.smooth_l1_loss(guess, scaled),
        "teacher": F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1),
            F.log_softmax(wanted / TEMPERATURE, dim=1),
            log_target=True,
            reduction="batchmean",
        ),
        "embedding": 1 - F.cosine_similarity(embeddings, direction).mean(),
    }


def run_epoch(tuner, teacher, optimizer, average, caltech, tiny, progress, epoch, options) -> None:
    """Train one pass over Caltech-101, with as much of Tiny ImageNet as `--tiny` asks for."""
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
        views = normalise(torch.cat(views))
        labels = torch.cat([tiny.labels[others], caltech.labels[rows] + CLASSES])
        inside = None
        if torch.rand((), generator=order) < options.mixed:
            mixed = mix(views, gen)
            views, inside = mixed.images, mixed.inside
            labels = torch.cat([labels, labels[mixed.source]])
        keep = random_keep(len(views), (options.size // 8) ** 2, options.drop, gen)
        parts = losses(tuner, views, labels, inside, keep, teacher)
        optimizer.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * part for name, part in parts.items()).backward()
        average_gradients(tuner)
        nn.utils.clip_grad_norm_(tuner.net.parameters(), 5.0)
        optimizer.step()
        average.update(tuner)
        progress.add(
            options.batch + options.tiny, **{name: part.item() for name, part in parts.items()}
        )


def report(path: Path, held: ImageSet | None, val: ImageSet, options, epoch: int) -> None:
    """Print how the averaged network does on held-out classes and on Tiny ImageNet val."""
    net = load_trained(path, options.model)
    line = f"epoch {epoch}: top-1 {top1(predict(net, val.images)[0], val.labels):.4f}"
    if held is not None:
        recall, precision = retrieval(predict(net, held.images)[1], held.labels)
        line += f", held-out classes R@1 {recall:.4f} mAP@R {precision:.4f}"
    say(line)


def train(options: argparse.Namespace) -> None:
    """Train, resuming from the last checkpoint, and write `--name` in `--out`."""
    torch.manual_seed(options.seed)
    cache = options.out / "cache"
    tiny = load_tiny(options.data, cache, "train")
    val = load_tiny(options.data, cache, "val", INPUT_SIZE)
    caltech, held = load_caltech(options.data, cache, "train", 144), None
    if options.develop:
        kept, out = held_out_classes(len(caltech.classes))
        held = load_caltech(options.data, cache, "train", INPUT_SIZE).only(out)
        caltech = caltech.only(kept)
    tuner = start(options, len(caltech.classes))
    teacher = None
    if options.teacher:
        teacher = load_trained(options.out / options.teacher, "demo-resnet").requires_grad_(False)
    parts = [(tuner.net, options.rate), (tuner.adapter, options.rate), (tuner.metric, PROXY_RATE)]
    optimizer = adamw(parts, options.weight_decay, (0.9, 0.99))
    average = Average(tuner, 0.995)
    path, first = options.out / options.name, 0
    if saved := load_checkpoint(path):
        tuner.load_state_dict(saved["raw"])
        optimizer.load_state_dict(saved["optimizer"])
        average.state, average.steps = saved["net"], saved["steps"]
        first = saved["epoch"] + 1
    per_epoch = len(caltech) // options.batch
    progress = Progress(per_epoch * options.epochs, per_epoch * first)
    for epoch in range(first, options.epochs):
        run_epoch(tuner, teacher, optimizer, average, caltech, tiny, progress, epoch, options)
        due = not (epoch + 1) % options.every or epoch + 1 == options.epochs
        if rank() or not due:
            continue
        save_checkpoint(
            path,
            net=average.state,
            raw=tuner.state_dict(),
            optimizer=optimizer.state_dict(),
            steps=average.steps,
            epoch=epoch,
        )
        report(path, held, val, options, epoch)


if __name__ == "__main__":
    given = parse()
    launch(train, given)
