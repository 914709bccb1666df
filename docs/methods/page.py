"""The generated parts of `docs/methods.md`: what the code says about each method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pairlens_server.demo.pairs import MODELS_FILE
from pairlens_server.methods.base import ExplanationMethod, Method
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS
from pairlens_server.methods.parameters import Parameter
from pairlens_server.models.config import load_model_configs
from pairlens_server.models.loading import load_model
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.recorder import Recorder

PAGE = Path(__file__).parent.parent / "methods.md"
OVERVIEW = "overview"

_BLOCK = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)

_MEASURED = re.compile(r"<!-- measured -->\n(.*?)<!-- end -->", re.DOTALL)

Facts = Mapping[str, ModelFacts]


def catalogue() -> dict[str, type[Method]]:
    """Every method of Explain and PairSimilarity by name, in the order they are shown."""
    return {method.name: method for method in (*EXPLANATION_METHODS, *PAIR_METHODS)}


def demo_facts() -> Facts:
    """What the demo models can give, by the model's name."""
    models = [load_model(config) for config in load_model_configs(MODELS_FILE)]
    return {model.name: Recorder(model).facts for model in models}


def filled(page: str, facts: Facts) -> str:
    """The page with every generated block as the code has it now.

    Args:
        page: Markdown with blocks between `<!-- generated: NAME -->` and `<!-- end -->`; a
            name is a method's, or "overview".
        facts: Of the models that costs and defaults are told of.

    Raises:
        KeyError: A block names no method.
    """

    def block(found: re.Match[str]) -> str:
        name = found[1]
        text = _overview(facts) if name == OVERVIEW else _method(catalogue()[name], facts)
        return f"<!-- generated: {name} -->\n{text}\n<!-- end -->"

    return _BLOCK.sub(block, page)


def with_measured(page: str, text: str) -> str:
    """The page with the block between `<!-- measured -->` and `<!-- end -->` replaced."""
    return _MEASURED.sub(lambda _: f"<!-- measured -->\n{text}\n<!-- end -->", page)


def _overview(facts: Facts) -> str:
    rows = [
        f"| method | calls | targets | passes, {' | passes, '.join(facts)} |",
        "|---|---|---|" + "---|" * len(facts),
    ]
    for name, method in catalogue().items():
        costs = " | ".join(
            "refused" if method.refusal(of) else f"{method.forward_passes(of):.3g}"
            for of in facts.values()
        )
        rows.append(f"| [`{name}`](#{name}) | {_calls(method)} | {_targets(method)} | {costs} |")
    return "\n".join(rows)


def _method(method: type[Method], facts: Facts) -> str:
    lines = [
        _sentence(method.summary),
        "",
        f"- **Source**: {method.paper}.",
        f"- **Calls**: {_calls(method)}. **Target**: {_targets(method)}.",
        f"- **Cost in forward passes**: {'; '.join(_cost(method, facts))}.",
    ]
    if method.caution:
        lines.append(f"- **Caution**: {method.caution}.")
    parameters = _parameters(method, facts)
    if parameters:
        lines += ["", "| parameter | values | default | |", "|---|---|---|---|", *parameters]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _calls(method: type[Method]) -> str:
    kinds = ((EXPLANATION_METHODS, "Explain"), (PAIR_METHODS, "PairSimilarity"))
    return ", ".join(name for methods, name in kinds if method in methods)


def _targets(method: type[Method]) -> str:
    if not issubclass(method, ExplanationMethod):
        return "the pair's similarity"
    kinds = [(method.takes_class, "class"), (method.takes_similarity, "similarity")]
    return " or ".join(name for taken, name in kinds if taken) or "none"


def _cost(method: type[Method], facts: Facts) -> list[str]:
    costs = []
    for name, of in facts.items():
        refusal = method.refusal(of)
        passes = f"{method.forward_passes(of):.3g}"
        costs.append(f"{name} refuses: {refusal}" if refusal else f"{name} {passes}")
    return costs


def _parameters(method: type[Method], facts: Facts) -> list[str]:
    by_model = {
        name: {parameter.name: parameter for parameter in method.parameters(of)}
        for name, of in facts.items()
        if not method.refusal(of)
    }
    first = next(iter(by_model.values()), {})
    rows = []
    for name, parameter in first.items():
        of_models = {model: parameters[name] for model, parameters in by_model.items()}
        values = _differing({model: values_text(p) for model, p in of_models.items()})
        default = _differing({model: _default(p) for model, p in of_models.items()})
        rows.append(f"| `{name}` | {values} | {default} | {parameter.description} |")
    return rows


def _differing(texts: Mapping[str, str]) -> str:
    """One text where all models agree, else that of each."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{model}: {text}" for model, text in texts.items())


def _default(parameter: Parameter) -> str:
    return f"`{parameter.default_text}`" if parameter.default_text else "unset"


def values_text(parameter: Parameter) -> str:
    """What values a parameter takes: its choices, or its type and range."""
    if parameter.choices:
        return ", ".join(f"`{choice}`" for choice in parameter.choices)
    low = _bound(parameter.minimum, parameter.above, "more than")
    high = _bound(parameter.maximum, parameter.below, "less than")
    if low and high:
        return f"{parameter.type}, {low} to {high}"
    if parameter.minimum is not None:
        low = f"at least {low}"
    if parameter.maximum is not None:
        high = f"at most {high}"
    return f"{parameter.type}, {low}{high}" if low or high else parameter.type


def _bound(inclusive: float | None, exclusive: float | None, word: str) -> str:
    if inclusive is not None:
        return f"{inclusive:.10g}"
    return "" if exclusive is None else f"{word} {exclusive:.10g}"
