"""The file that declares which models a server holds.

    models:
      - name: resnet50
        architecture: resnet50
        checkpoint: resnet50.safetensors

Reading it touches neither timm nor the checkpoints, so that a wrong file is refused at once.
Paths are relative to the file. `deploy/models.example.yaml` shows every field.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.preprocessing import Interpolation, ResizeMode
from pairlens_server.yaml_file import read_yaml

# Arguments of timm.create_model that the other fields decide, or that would reach for the network.
RESERVED_OPTIONS = frozenset(
    {
        *("model_name", "num_classes", "global_pool", "img_size", "in_chans", "device", "dtype"),
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
        *("features_only", "pruned", "scriptable", "exportable", "no_jit", "use_naflex"),
    }
)
# With these, timm makes as many patches as the picture gives, or pads it beyond its edges.
_OPTIONS_OF_THE_GRID = frozenset({"dynamic_img_size", "dynamic_img_pad"})
_FOLDER = "folder"
_MAX_NAME = 63
_TWIN_SUFFIX = "-random"
_TWIN_SEED = 0


def _in_folder(path: Path, info: ValidationInfo) -> Path:
    try:
        named = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise ValueError("no file can have this name")
    folder = (info.context or {}).get(_FOLDER)
    return path if folder is None else Path(folder) / path


def _both_sides(size: Any) -> Any:
    return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size


RelativePath = Annotated[Path, AfterValidator(_in_folder)]
Side = Annotated[int, Field(ge=1, le=4096)]
Triple = tuple[float, float, float]
Pooling = Literal["token", "avg", "max", "avgmax", "catavgmax", "map", "prr"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessingConfig(_Settings):
    """How pictures become inputs; what is null is as timm has it for the architecture.

    Attributes:
        size: Input height and width in pixels; one number in the file means a square.
        resize: How a picture is brought to that size.
        crop_fraction: In (0, 1]; only used by `crop`.
        interpolation: Resampling filter.
        mean, std: Per channel (red, green, blue), of values in [0, 1].
    """

    size: Annotated[tuple[Side, Side] | None, BeforeValidator(_both_sides)] = None
    resize: ResizeMode | None = None
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    interpolation: Interpolation | None = None
    mean: Triple | None = None
    std: Triple | None = None

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("every value must be above 0")
        return std


class ProjectionConfig(_Settings):
    """A linear layer from the pooled features to the embedding.

    Attributes:
        size: Length of the embedding.
        bias: Whether the layer has a bias.
        checkpoint: File with `weight` and `bias` (or `projection.weight`, `projection.bias`);
            null takes `projection.weight` and `projection.bias` of the model's checkpoint.
        before_pooling: Apply it to every token or cell, before they are pooled, as Black et
            al. do. Under mean pooling the embedding is the same either way, under max
            pooling it is another one. Needs pooling "avg" or "max" and no norm after it.
    """

    size: Annotated[int, Field(ge=1)]
    bias: bool = True
    checkpoint: RelativePath | None = None
    before_pooling: bool = False


class ModelConfig(_Settings):
    """One model to serve.

    Attributes:
        name: Name under which it is served.
        architecture: timm's name, with or without a tag; a tag chooses the preprocessing.
        architecture_options: Further arguments of `timm.create_model`.
        checkpoint: The weights; null only with `random_weights`.
        checkpoint_key: Entry of the checkpoint that holds the weights (`teacher`, `model_ema`);
            null has it recognised.
        head_checkpoint: A linear classifier kept apart from its backbone, as DINO publishes
            them. It takes the place of a head in `checkpoint`.
        random_weights, seed: Serve an untrained network; for tests and benchmarks.
        random_twin: Also serve this model with random weights, as NAME-random, whose maps are
            a control of `pairlens evaluate`.
        pooling: timm's `global_pool`; null is the architecture's.
        classes: Outputs of the class head, 0 for no head; null is what the checkpoint has.
        labels: File with one label per class and line; `wnid<TAB>words` keeps the words.
        projection: Linear layer from the pooled features to the embedding.
        preprocessing: How pictures become inputs.
        device: `auto` is the first GPU if there is one, else the CPU.
        dtype: What the network computes in.
    """

    name: Annotated[str, Field(pattern=rf"^[a-z0-9][a-z0-9._-]{{0,{_MAX_NAME - 1}}}$")]
    architecture: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$")]
    architecture_options: dict[str, JsonValue] = Field(default_factory=dict)
    checkpoint: RelativePath | None = None
    checkpoint_key: Annotated[str, Field(min_length=1)] | None = None
    head_checkpoint: RelativePath | None = None
    random_weights: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    random_twin: bool = False
    pooling: Pooling | None = None
    classes: Annotated[int, Field(ge=0)] | None = None
    labels: RelativePath | None = None
    projection: ProjectionConfig | None = None
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @field_validator("architecture_options")
    @classmethod
    def _not_reserved(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        reserved = sorted(RESERVED_OPTIONS & options.keys())
        if reserved:
            raise ValueError(
                f"{', '.join(reserved)} cannot be set here: pairlens sets it from the other fields"
            )
        dynamic = sorted(_OPTIONS_OF_THE_GRID & options.keys())
        if dynamic:
            raise ValueError(
                f"{', '.join(dynamic)} cannot be set here: the patch grid must be fixed"
            )
        return options

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> ModelConfig:
        if not self.random_weights:
            if self.checkpoint is None:
                raise ValueError("checkpoint is missing (or set random_weights: true and a seed)")
            if self.seed is not None:
                raise ValueError("seed only applies with random_weights: true")
            return self
        projection = self.projection.checkpoint if self.projection else None
        if self.checkpoint or self.head_checkpoint or self.checkpoint_key or projection:
            raise ValueError("random_weights: true excludes every checkpoint")
        if self.seed is None:
            raise ValueError("random_weights: true needs a seed")
        return self

    @model_validator(mode="after")
    def _twin_can_be_told_apart(self) -> ModelConfig:
        if not self.random_twin:
            return self
        if len(self.twin_name) > _MAX_NAME:
            longest = _MAX_NAME - len(_TWIN_SUFFIX)
            raise ValueError(f"random_twin: true takes a name of at most {longest} characters")
        if self.seed == _TWIN_SEED:
            raise ValueError(f"random_twin: true needs another seed than {_TWIN_SEED}, the twin's")
        return self

    @property
    def twin_name(self) -> str:
        """Name of the random twin; empty without one."""
        return self.name + _TWIN_SUFFIX if self.random_twin else ""

    def twin(self, classes: int) -> ModelConfig:
        """The same model with random weights.

        Args:
            classes: Outputs of this model's class head, which the checkpoint may decide.
        """
        projection = self.projection
        changes = {
            "name": self.name + _TWIN_SUFFIX,
            "checkpoint": None,
            "checkpoint_key": None,
            "head_checkpoint": None,
            "random_weights": True,
            "seed": _TWIN_SEED,
            "random_twin": False,
            "classes": classes,
            "projection": projection and projection.model_copy(update={"checkpoint": None}),
        }
        return self.model_copy(update=changes)


class _ModelsFile(_Settings):
    models: tuple[ModelConfig, ...]

    @field_validator("models")
    @classmethod
    def _unique_names(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        if not models:
            raise ValueError("lists no model")
        names = [name for model in models for name in (model.name, model.twin_name) if name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two models are named {', '.join(twice)} (a random_twin counts as a model)"
            )
        return models


def load_model_configs(path: Path | str) -> tuple[ModelConfig, ...]:
    """Read the models file.

    Args:
        path: A YAML file; relative paths in it start at its folder.

    Returns:
        The models in the file's order.

    Raises:
        ConfigurationError: One line with the file, the model, the field and what is wrong.
    """
    path = Path(path)
    content = read_yaml(path)
    try:
        return _ModelsFile.model_validate(content, context={_FOLDER: path.parent}).models
    except ValidationError as error:
        raise ConfigurationError(f"{path.name}: {_readable(error, content)}") from error


def _readable(error: ValidationError, content: Any) -> str:
    first, *others = error.errors(include_url=False, include_context=False)
    location = list(first["loc"])
    parts = []
    if location[:1] == ["models"] and len(location) > 1 and isinstance(location[1], int):
        # Pydantic takes for a sequence what cannot be counted off, such as a set.
        entries = content["models"]
        entry = entries[location[1]] if isinstance(entries, list) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        parts.append(f"model {name!r}" if name else f"model {location[1] + 1}")
        location = location[2:]
    if location:
        field = ".".join(str(step) for step in location)
        parts.append(f"field {field if field.isprintable() else repr(field)}")
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(others)} more)" if others else ""
    return (", ".join(parts) + ": " if parts else "") + message + more
