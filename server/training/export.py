"""Step 5: make the projection and write the half-precision file that is shipped.

The projection is fitted in closed form (fit.py) and then learned by ProxyAnchor (learn.py), or,
with `--keep`, stays as it was learned with the network (polish.py).

The file is measured after rounding, and the numbers go into its metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from data import load_caltech, load_tiny, read_labels
from evaluate import measure
from fit import fit_projection
from learn import learn_projection
from loop import say
from nets import ARCHITECTURES, INPUT_SIZE, load_half, load_trained, save_half

LARGEST = 12 * 2**20  # bytes
METADATA = {
    "attribution": (
        "Trained from scratch on Caltech-101 (Fei-Fei, Fergus, Perona 2004; CC BY 4.0) and "
        "Tiny ImageNet (Le and Yang 2015), a subset of ImageNet (Russakovsky et al. 2015; "
        "for research and education). No pretrained weights."
    ),
    "training": "server/training/README.md",
    "input": f"{INPUT_SIZE}x{INPUT_SIZE}, stretched (bilinear, antialias); ImageNet mean, std",
    "outputs": "200 Tiny ImageNet classes; projection.* maps pooled features to the embedding",
}


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", choices=ARCHITECTURES)
    parser.add_argument("checkpoint", help="checkpoint of finetune.py, in --out")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--ship", type=Path, required=True, help="folder to write to")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoint's projection")
    parser.add_argument("--shrink", type=float, default=0.5, help="see fit.py")
    parser.add_argument("--centre", action="store_true", help="see fit.py")
    parser.add_argument("--count", type=int, default=4000, help="Tiny ImageNet pictures to fit on")
    return parser.parse_args()


def main() -> None:
    """Write the safetensors file, and the labels of its class head beside it."""
    options = parse()
    cache = options.out / "cache"
    net = load_trained(options.out / options.checkpoint, options.model)
    tiny = load_tiny(options.data, cache, "train")
    caltech = load_caltech(options.data, cache, "train", 144)
    if not options.keep:
        features, labels = fit_projection(
            net, tiny, caltech, count=options.count, shrink=options.shrink, centre=options.centre
        )
        learn_projection(net.projection, features, labels)
    path = options.ship / f"{options.model}.safetensors"
    save_half(net, path, METADATA)
    metrics = measure(load_half(path), options.data, cache)
    save_half(net, path, {**METADATA, "metrics": json.dumps(metrics)})
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path} is larger than {LARGEST} bytes")
    lines = [f"{wnid}\t{words}\n" for wnid, words in read_labels(options.data)]
    (options.ship / "tiny-imagenet-labels.txt").write_text("".join(lines), encoding="utf-8")
    say(json.dumps({"file": path.name, "bytes": path.stat().st_size, **metrics}, indent=2))


if __name__ == "__main__":
    main()
