"""The models of a server, each with its random twin where one is declared.

Maps of a network with random weights are a control: a method whose maps of the trained and of
the random network score the same tells nothing of what was learnt (Adebayo et al., "Sanity checks
for saliency maps", NeurIPS 2018).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pairlens_server.models.config import ModelConfig
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.loading import load_model


def load_models(configs: Iterable[ModelConfig]) -> tuple[LoadedModel, ...]:
    """Load every model of a models file.

    Args:
        configs: As `load_model_configs` gives them.

    Returns:
        The models in their order, each random twin right after its model, which names it. A
        twin has the model's architecture, options, pooling, classes, labels, preprocessing,
        device and dtype, and a projection of the same shape.

    Raises:
        ConfigurationError: As `load_model`.
    """
    models: list[LoadedModel] = []
    for config in configs:
        model = load_model(config)
        models.append(replace(model, random_twin=config.twin_name))
        if config.random_twin:
            models.append(load_model(config.twin(model.classes), like=model))
    return tuple(models)
