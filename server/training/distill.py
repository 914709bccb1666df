"""Step 3: teach the ViT, from scratch, what the ResNet sees at every place of the picture.

The student's 8x8 grid at 64 pixels regresses the teacher's features at the same places. Dense
targets say far more a picture than one label does, and they keep the student's tokens local. The
teacher gives an 8x8 grid of a 64-pixel picture when its last strides are traded for dilation, and
those features agree with the 4x4 grid that it was trained with.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from augment import Strength, random_views
from data import ImageSet, load_caltech, load_tiny
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
from metrics import top1
from mimetic import start_mimetic
from nets import DemoNet, gather_tokens, normalise, random_keep
from parallel import average_gradients, launch, mine, rank
from torch import Tensor, nn

SIZE = 64  # pixels
GRID = 8  # tokens a side, of the student and of the teacher
TEMPERATURE = 2.0


class Distiller(nn.Module):
    """The student, and the linear map from its tokens to the teacher's features."""

    def __init__(self) -> None:
        """Build the student at 64 pixels with mimetic weights."""
        super().__init__()
        self.student = DemoNet("demo-vit", img_size=SIZE)
        start_mimetic(self.student.backbone)
        self.adapter = nn.Linear(self.student.backbone.embed_dim, 512)


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = base_parser(__doc__, epochs=12, batch=128, rate=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of AdamW")
    parser.add_argument("--drop", type=float, default=0.5, help="share of patches left out early")
    parser.add_argument(
        "--whole", type=float, default=0.25, help="share of the epochs, the last, with all patches"
    )
    parser.add_argument("--echo", type=int, default=2, help="steps on each batch of the teacher")
    return parser.parse_args()


def load_teacher(path) -> DemoNet:
    """Return the frozen pre-trained ResNet with an 8x8 grid at 64 pixels."""
    teacher = DemoNet("demo-resnet", output_stride=SIZE // GRID)
    teacher.load_state_dict(load_checkpoint(path)["net"])
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def join(tiny: ImageSet, caltech: ImageSet) -> tuple[Tensor, Tensor]:
    """Return all pictures at 64 pixels, and labels that are -1 on Caltech-101's."""
    smaller = F.interpolate(
        caltech.images.float(), (SIZE, SIZE), mode="bilinear", antialias=True
    ).to(torch.uint8)
    unlabelled = torch.full((len(caltech),), -1)
    return torch.cat([tiny.images, smaller]), torch.cat([tiny.labels, unlabelled])


def losses(
    model: Distiller, views: Tensor, targets: Tensor, teacher_head: nn.Module, labels: Tensor, keep
) -> dict[str, Tensor]:
    """Return the parts of the loss; `targets` are the teacher's features [B, 64, 512]."""
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model.student.tokens(views, keep)
        guess = model.adapter(tokens)
        logits, _ = model.student.read(tokens.mean(1))
    if keep is not None:
        targets = gather_tokens(targets, keep)
    with torch.no_grad():
        wanted = F.log_softmax(teacher_head(targets.mean(1)) / TEMPERATURE, dim=1)
        scaled = (targets - targets.mean((0, 1))) / (targets.std((0, 1)) + 1e-3)
    given = F.log_softmax(logits.float() / TEMPERATURE, dim=1)
    known = labels >= 0
    return {
        "dense": F.smooth_l1_loss(guess.float(), scaled),
        "teacher": F.kl_div(given, wanted, log_target=True, reduction="batchmean"),
        "label": F.cross_entropy(logits.float()[known], labels[known], label_smoothing=0.1),
    }


WEIGHTS = {"dense": 4.0, "teacher": 1.5, "label": 0.5}


def run_epoch(model, teacher, optimizer, average, images, labels, progress, epoch, options) -> None:
    """Train one epoch; each batch of the teacher serves `echo` steps, mirrored every other one."""
    order = torch.Generator().manual_seed(options.seed * 1000 + epoch)
    gen = torch.Generator().manual_seed(options.seed * 1000 + epoch + 500 + 1000 * rank())
    drop = options.drop if epoch < round(options.epochs * (1 - options.whole)) else 0.0
    model.train()
    for rows in epoch_batches(len(images), options.batch, order):
        rows = mine(rows)
        views = normalise(random_views(images[rows], SIZE, gen, Strength()))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            seen = views.contiguous(memory_format=torch.channels_last)
            targets = teacher.tokens(seen).float()
        for _ in range(options.echo):
            set_rate(optimizer, one_cycle(progress.step, progress.total))
            keep = random_keep(len(rows), GRID * GRID, drop, gen)
            head = teacher.backbone.get_classifier()
            parts = losses(model, views, targets, head, labels[rows], keep)
            optimizer.zero_grad(set_to_none=True)
            sum(WEIGHTS[name] * part for name, part in parts.items()).backward()
            average_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model)
            progress.add(options.batch, **{name: part.item() for name, part in parts.items()})
            views = views.flip(3)
            targets = targets.unflatten(1, (GRID, GRID)).flip(2).flatten(1, 2)


def train(options: argparse.Namespace) -> None:
    """Train, resuming from the last whole epoch, and write `vit-distilled.pt`."""
    torch.manual_seed(options.seed)
    cache = options.out / "cache"
    caltech = load_caltech(options.data, cache, "train", 144)
    images, labels = join(load_tiny(options.data, cache, "train"), caltech)
    val = load_tiny(options.data, cache, "val")
    teacher = load_teacher(options.out / "resnet-pretrained.pt")
    model = Distiller()
    optimizer = adamw([(model, options.rate)], options.weight_decay, (0.9, 0.98))
    average = Average(model, 0.998)
    path, first = options.out / "vit-distill.pt", 0
    if saved := load_checkpoint(path):
        model.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        average.state, average.steps = saved["average"], saved["steps"]
        first = saved["epoch"] + 1
    per_epoch = len(images) // options.batch * options.echo
    progress = Progress(per_epoch * options.epochs, per_epoch * first)
    for epoch in range(first, options.epochs):
        run_epoch(model, teacher, optimizer, average, images, labels, progress, epoch, options)
        if rank():
            continue
        save_checkpoint(
            path,
            net=model.state_dict(),
            optimizer=optimizer.state_dict(),
            average=average.state,
            steps=average.steps,
            epoch=epoch,
        )
        measured = Distiller()
        measured.load_state_dict(average.state)
        logits = predict(measured.student, val.images)[0]
        say(f"epoch {epoch}: top-1 {top1(logits, val.labels):.4f} on val")
    if not rank():
        save_checkpoint(options.out / "vit-distilled.pt", net=average.state)


if __name__ == "__main__":
    given = parse()
    launch(train, given)
