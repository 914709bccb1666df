"""The shipped checkpoints: size, strict loading into timm's models, and labels."""

import json
from pathlib import Path

import pytest
import torch
from nets import ARCHITECTURES, CLASSES, EMBEDDING, load_half, resize_positions, save_half
from safetensors import safe_open

MODELS = Path(__file__).parents[2] / "server" / "pairlens_server" / "demo" / "models"
GRID = {"demo-resnet": 8, "demo-vit": 16}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_checkpoint_is_small_half_precision_and_described(name):
    path = MODELS / f"{name}.safetensors"
    assert path.stat().st_size <= 12 * 2**20
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert kinds <= {torch.float16, torch.int64}
    assert metadata["architecture"] == name
    assert "Caltech-101" in metadata["attribution"]
    assert "CC BY 4.0" in metadata["attribution"]
    assert json.loads(metadata["metrics"])["caltech101_unseen_recall_at_1"] > 0.3
    assert (MODELS / f"{name}.md").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_checkpoint_loads_strictly_and_pools_by_the_mean(name):
    net = load_half(MODELS / f"{name}.safetensors")
    pixels = torch.randn((2, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens, logits, embedding = net(pixels)
        whole = net.backbone(pixels)
    assert tokens.shape[:2] == (2, GRID[name] ** 2)
    assert logits.shape == (2, CLASSES)
    assert embedding.shape == (2, EMBEDDING)
    torch.testing.assert_close(logits, whole, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saving_again_changes_nothing(name, tmp_path):
    net = load_half(MODELS / f"{name}.safetensors")
    save_half(net, tmp_path / "again.safetensors", {})
    again = load_half(tmp_path / "again.safetensors").export_state()
    assert all(torch.equal(value, again[key]) for key, value in net.export_state().items())


def test_labels_are_those_of_the_class_head():
    lines = (MODELS / "tiny-imagenet-labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == CLASSES
    assert lines[0] == "n01443537\tgoldfish, Carassius auratus"
    assert all(line.split("\t")[0].startswith("n") and line.split("\t")[1] for line in lines)


def test_positions_are_resampled_smoothly():
    positions = torch.linspace(0, 1, 8).repeat(8).view(1, 64, 1)
    resized = resize_positions({"pos_embed": positions}, 16)["pos_embed"].view(16, 16)
    assert torch.allclose(resized[0], resized[-1], atol=1e-5)
    assert (resized[0].diff() > -1e-3).all()
