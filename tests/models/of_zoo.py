"""Models of the zoo, as the tests of loading build them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model
from tests.zoo import Entry, zoo

ZOO = zoo()


def pictures(entry: Entry, count: int = 2, size: tuple[int, int] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, *(size or entry.size), generator=generator)


def random_model(name: str, **changes: Any) -> LoadedModel:
    fields = {**ZOO[name].fields("unused"), "random_weights": True, "seed": 0, **changes}
    fields["architecture_options"] = {**ZOO[name].options, **changes.pop("options", {})}
    del fields["checkpoint"]
    fields.pop("options", None)
    return load_model(ModelConfig(**fields))


def refusal(name: str, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        random_model(name, **changes)
    return str(caught.value)


def from_state(folder: Path, name: str, state: dict[str, Tensor], **changes: Any) -> LoadedModel:
    path = folder / "w.safetensors"
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path)
    return load_model(ModelConfig(**{**ZOO[name].fields(str(path)), **changes}))
