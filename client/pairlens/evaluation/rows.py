"""Lines of the table from what callers write: "rollout", "grad_cam(rule=libra)", "all"."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pairlens import specs
from pairlens._parameters import of_kind
from pairlens.errors import InvalidParameterError
from pairlens.evaluation.protocol import JSON
from pairlens.evaluation.records import Row
from pairlens.models import Choice, Method, MethodInfo, MethodKind, ModelInfo

ALL = "all"
_FIELD = "methods"


@dataclass(frozen=True)
class MethodRow:
    """A method of a model, as a line of the table.

    Attributes:
        row: Named by the normalised text; with the model's refusal where it has one.
        method: Name, and the parameters that were written.
        info: What the model says of it.
    """

    row: Row
    method: Method
    info: MethodInfo

    def settings(self) -> dict[str, JSON]:
        """What changes the row's numbers, for `Protocol.settings`."""
        defaults = self.info.defaults
        return {
            "method": text(self.method),
            "defaults": None if defaults is None else text(defaults),
            "revision": self.info.revision,
        }


def text(choice: Choice) -> str:
    """A method or a metric as callers write it; `str` of it has "()" and "True"."""
    arguments = tuple(
        (name, str(value).lower() if isinstance(value, bool) else value)
        for name, value in choice.arguments
    )
    return str(Choice(choice.name, arguments)).removesuffix("()")


def method_rows(
    texts: str | Sequence[str | Method], model: ModelInfo, kind: MethodKind
) -> tuple[MethodRow, ...]:
    """Read the rows that a caller asks for.

    Args:
        texts: Methods with parameters, or one text of them with commas between. "all"
            stands for every method of the kind that the model gives without a parameter. A
            row that is there already is not added again.
        model: Whose methods.
        kind: Which call takes them.

    Returns:
        At least one row. Methods that the model refuses are rows with a refusal.

    Raises:
        InvalidParameterError: No text, an unknown method or parameter, or a value that is
            none of its type.
    """
    infos = {info.name: info for info in model.methods if info.kind is kind}
    found: dict[str, MethodRow] = {}
    for method in _methods(texts, infos, kind):
        info = infos.get(method.name)
        if info is None:
            raise InvalidParameterError(
                f"{model.name} knows no method {method.name!r}; it has {', '.join(infos)}",
                field=_FIELD,
            )
        name = text(method)
        found.setdefault(name, MethodRow(Row(name, refusal=info.refusal), method, info))
    if not found:
        raise InvalidParameterError(
            f"no method to evaluate; {model.name} has {', '.join(infos)}", field=_FIELD
        )
    return tuple(found.values())


def _methods(
    texts: str | Sequence[str | Method], infos: dict[str, MethodInfo], kind: MethodKind
) -> Iterator[Method]:
    for given in [texts] if isinstance(texts, str) else texts:
        if isinstance(given, Method):
            checked = of_kind(kind).checked(given.name, given.parameters)
            yield _written(Method(given.name, checked), given.parameters)
            continue
        for part in specs.split(given):
            if part.lower() == ALL:
                # A method without defaults cannot run unless something is chosen.
                runnable = (info for info in infos.values() if info.supported and info.defaults)
                yield from (Method(info.name) for info in runnable)
            else:
                spelled = _spelled(part, infos)
                yield _written(specs.method(spelled, kind), specs.parse(spelled)[1])


def _written(method: Method, names: Collection[str]) -> Method:
    """The method without parameters that are there because they cannot be unset."""
    return Method(method.name, tuple(pair for pair in method.arguments if pair[0] in names))


def _spelled(part: str, names: Iterable[str]) -> str:
    """The text with the model's spelling of the method: "gradcam" is "grad_cam"."""
    written, bracket, rest = part.partition("(")
    plain = {name.replace("_", ""): name for name in names}
    folded = written.strip().lower().replace("-", "").replace("_", "")
    return plain.get(folded, written) + bracket + rest
