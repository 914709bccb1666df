"""From one entry of the models file to a model that is ready to run."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pairlens_server.errors import ConfigurationError
from pairlens_server.models import architectures, families, layouts
from pairlens_server.models.checkpoints import read_checkpoint
from pairlens_server.models.config import ModelConfig, ProjectionConfig
from pairlens_server.models.fingerprint import fingerprint
from pairlens_server.models.grids import token_layout
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.preprocessing import Preprocessing

_logger = logging.getLogger(__name__)

_LISTED = 10  # keys of each kind in the message on a mismatch
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class _Weights:
    """A checkpoint under timm's names, in its parts."""

    network: layouts.State  # without a class head where `head` has one
    head: layouts.State  # `weight` and `bias` of a separate classifier, or empty
    projection: layouts.State  # `weight` and `bias`, or empty
    classes: int
    # The files that they come from, for messages.
    network_file: str
    head_file: str
    projection_file: str


def load_model(config: ModelConfig, *, like: LoadedModel | None = None) -> LoadedModel:
    """Build the network that an entry of the models file declares and load its weights.

    Args:
        config: The entry; its paths as they can be opened.
        like: A model of the same architecture, for random weights: where a checkpoint decided
            about the place of the last norm, the network gets it at the same place.

    Returns:
        The model: frozen, in eval mode, in its dtype and on its device.

    Raises:
        ConfigurationError: Something of the entry or of its files does not fit; the message
            names the model and files without their folders.
    """
    try:
        return _load(config, like)
    except ConfigurationError as error:
        raise ConfigurationError(f"model {config.name!r}: {error}") from error


def _load(config: ModelConfig, like: LoadedModel | None) -> LoadedModel:
    start = time.perf_counter()
    device = _device(config.device)
    preprocessing = architectures.resolve_preprocessing(config.architecture, config.preprocessing)
    network, projection = _network_and_projection(config, preprocessing, like)
    pooling = families.pooling_of(network)
    classes = int(network.num_classes)  # type: ignore[arg-type]
    labels = _labels(config.labels, classes)
    dtype, options = _DTYPES[config.dtype], config.architecture_options
    network.to(dtype)
    if projection is not None:
        projection.to(dtype)
    # Before the move to the device, which would bring every weight back.
    first = _projection_first(config, network, pooling)
    digest = fingerprint(
        network,
        projection,
        config.architecture,
        options,
        preprocessing,
        dtype,
        pooling,
        projection_first=first,
    )
    features = architectures.try_out(network, preprocessing, device)
    layout = token_layout(network, preprocessing, features)
    blocks, heads = families.blocks_and_heads(network)
    model = LoadedModel(
        name=config.name,
        architecture=config.architecture,
        family=families.family_of(network),
        network=network,
        projection=None if projection is None else projection.to(device),
        pooling=pooling,
        preprocessing=preprocessing,
        layout=layout,
        embedding_size=_embedding_size(network, projection),
        blocks=blocks,
        heads=heads,
        classes=classes,
        labels=labels,
        fingerprint=digest,
        device=device,
        dtype=dtype,
        projection_first=first,
    )
    _logger.info("model %s loaded in %.1f s", config.name, time.perf_counter() - start)
    return model


def _projection_first(config: ModelConfig, network: nn.Module, pooling: str) -> bool:
    if config.projection is None or not config.projection.before_pooling:
        return False
    if pooling not in ("avg", "max"):
        raise ConfigurationError(
            f"field projection.before_pooling: needs pooling avg or max, not {pooling}"
        )
    if families.norm_after_pooling(network) is not None:
        raise ConfigurationError(
            "field projection.before_pooling: the network has a norm after the pooling, which "
            "would read the projection's output"
        )
    return True


def _embedding_size(network: nn.Module, projection: nn.Linear | None) -> int:
    return projection.out_features if projection else families.pooled_width(network)


def _network_and_projection(
    config: ModelConfig, preprocessing: Preprocessing, like: LoadedModel | None
) -> tuple[nn.Module, nn.Linear | None]:
    weights = _read_weights(config)
    state = like.network.state_dict() if like else None
    # A fork, so that a random model is the same whatever was built before it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed or 0)
        network = architectures.build_network(
            config.architecture,
            config.architecture_options,
            preprocessing,
            classes=config.classes if weights is None else weights.classes,
            pooling=config.pooling,
            state=state if weights is None else weights.network,
        )
        projection = _projection(config.projection, network)
    if weights is not None:
        _load_network(network, weights)
        _load_projection(projection, weights)
    return network, projection


def _read_weights(config: ModelConfig) -> _Weights | None:
    if config.checkpoint is None:
        return None
    state, layout = layouts.remap(read_checkpoint(config.checkpoint, config.checkpoint_key))
    _logger.info("%s: layout %s", config.checkpoint.name, layout)
    state, projection = layouts.split_projection(state)
    projection_path = config.projection.checkpoint if config.projection else None
    if projection_path is not None:
        projection = _linear_file(projection_path, ("projection",))
    head: layouts.State = {}
    classes = layouts.head_classes(state)
    if config.head_checkpoint is not None:
        head = _linear_file(config.head_checkpoint, layouts.SEPARATE_HEADS)
        classes = head["weight"].shape[0]
    head_path = config.head_checkpoint or config.checkpoint
    if config.classes == 0:
        head, classes = {}, 0
    elif config.classes is not None and config.classes != classes:
        found = f"a head of {classes}" if classes else "no class head"
        raise ConfigurationError(
            f"field classes: {config.classes} asked for, but {head_path.name} has {found}"
        )
    if head or not classes:
        state = layouts.without_head(state)
    return _Weights(
        network=state,
        head=head,
        projection=projection,
        classes=classes,
        network_file=config.checkpoint.name,
        head_file=head_path.name,
        projection_file=(projection_path or config.checkpoint).name,
    )


def _linear_file(path: Path, names: tuple[str, ...]) -> layouts.State:
    try:
        return layouts.linear_layer(read_checkpoint(path), names)
    except ValueError as error:
        raise ConfigurationError(f"{path.name}: {error}") from error


def _load_network(network: nn.Module, weights: _Weights) -> None:
    state = layouts.without_derived(weights.network, network)
    state = layouts.fit_positions(state, network)
    if weights.head:
        read, given = weights.head["weight"].shape[1], families.pooled_width(network)
        if read != given:
            raise ConfigurationError(
                f"{weights.head_file}: the head reads {read} features and the network "
                f"gives {given} (DINO's heads for ViTs read class tokens of several blocks, "
                "which no class head of the network does)"
            )
        name = families.classifier_name(network)
        own = network.get_parameter(f"{name}.weight")
        head = {**weights.head, "weight": weights.head["weight"].reshape(own.shape)}
        state = {**state, **{f"{name}.{key}": value for key, value in head.items()}}
    _load_strictly(network, state, weights.network_file)


def _load_strictly(module: nn.Module, state: layouts.State, file_name: str) -> None:
    own = module.state_dict()
    # Checkpoints older than torch 0.4.1 lack the counter, which only training reads.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} ({_shape(state[key])} for {_shape(value)})"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(kinds.values()):
        listed = "; ".join(_listed(kind, keys) for kind, keys in kinds.items() if keys)
        raise ConfigurationError(f"{file_name} does not fit the network: {listed}")
    counters = {key: own[key] for key in own if key not in state}
    module.load_state_dict({**state, **counters}, strict=True)


def _listed(kind: str, keys: list[str]) -> str:
    more = f", and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:_LISTED])}{more}"


def _shape(value: Tensor) -> str:
    return str(list(value.shape))


def _projection(config: ProjectionConfig | None, network: nn.Module) -> nn.Linear | None:
    if config is None:
        return None
    layer = nn.Linear(families.pooled_width(network), config.size, bias=config.bias)
    return layer.eval().requires_grad_(False)


def _load_projection(projection: nn.Linear | None, weights: _Weights) -> None:
    file_name, state = weights.projection_file, weights.projection
    if projection is None:
        # The embedding would be another one than the checkpoint was trained for.
        if state:
            raise ConfigurationError(f"{file_name} has a projection: declare it (field projection)")
        return
    if not state:
        raise ConfigurationError(f"{file_name} has no projection.weight (field projection)")
    _load_strictly(projection, state, f"the projection of {file_name}")


def _labels(path: Path | None, classes: int) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ConfigurationError(f"{path.name}: {reason} (field labels)") from error
    labels = tuple(line.split("\t", 1)[-1].strip() for line in lines)
    if len(labels) != classes:
        raise ConfigurationError(
            f"{path.name} has {len(labels)} labels for {classes} classes (field labels)"
        )
    return labels


def is_on_cpu(device: str) -> bool:
    """Whether that device of an entry of the models file is the CPU on this machine."""
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def _device(name: str) -> torch.device:
    if is_on_cpu(name):
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= found:
        raise ConfigurationError(f"field device: {name} asked for, but there are {found} GPUs")
    return torch.device("cuda", index)
