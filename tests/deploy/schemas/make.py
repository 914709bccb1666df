"""Makes the schemas of this folder; run it where cloudcoil's models are installed.

pip install cloudcoil cloudcoil-models-keda cloudcoil-models-prometheus-operator
python tests/deploy/schemas/make.py
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

_MODELS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
}
_PROSE = ("title", "description")


def strict(node: Any) -> Any:
    """Without prose, defaults and null, and with no field that the schema does not name."""
    if isinstance(node, list):
        return [strict(below) for below in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: strict(below)
        for key, below in node.items()
        if key != "default" and not (key in _PROSE and isinstance(below, str))
    }
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        kept |= choices[0]
    elif choices:
        kept["anyOf"] = choices
    if kept.get("properties") and kept.get("type") == "object":
        kept["additionalProperties"] = False
    return kept


if __name__ == "__main__":
    for name, module in _MODELS.items():
        schema = strict(getattr(import_module(module), name).model_json_schema(by_alias=True))
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        text = json.dumps(schema, indent=1, sort_keys=True) + "\n"
        path = Path(__file__).with_name(f"{name.lower()}.json")
        path.write_text(text, encoding="utf-8")
