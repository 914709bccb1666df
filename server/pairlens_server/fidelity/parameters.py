"""Parameters that metrics share, with their ranges on a model's input."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pairlens_server.fidelity.placing import ErasureOrder, ErasureUnit
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Parameter, Profile, choices


class ScoredClass(str, Enum):
    """Whose probability is read, where the target is a class."""

    TARGET = "target"
    PREDICTED = "predicted"


@dataclass(frozen=True)
class Board:
    """What a map lies on.

    Attributes:
        height, width: Of the model's input, in pixels.
        cells: Of the map's grid; 0 for a map of the picture's own pixels.
        black: Black as the model's input has it, by channel.
    """

    height: int
    width: int
    cells: int
    black: tuple[float, float, float]

    @property
    def pixels(self) -> int:
        """Pixels of the input."""
        return self.height * self.width


_MAX_SEED = 2**32 - 1
_PROFILES = (Profile.STRICT.value, Profile.REFERENCE.value)


def _profile(reference: str) -> Parameter:
    text = f"strict: see the contract; reference: the thesis' code, {reference}"
    return Parameter("profile", "enum", Profile.STRICT, text, choices=_PROFILES)


def _sigma(board: Board) -> Parameter:
    return Parameter(
        "blur_sigma",
        "float",
        None,
        "of blur: deviation in pixels of the input; unset: 5 for 224 pixels, else in proportion",
        above=0,
        maximum=max(board.height, board.width),
    )


def drop_parameters(board: Board) -> tuple[Parameter, ...]:
    """Of average drop and average increase."""
    masks = tuple(c for c in choices(Substrate) if c != Substrate.NOISY_LINEAR.value)
    return (
        _profile("probabilities as float32"),
        Parameter(
            "substrate", "enum", Substrate.BLACK, "what the map hides turns into", choices=masks
        ),
        _sigma(board),
        Parameter("seed", "int", 0, "of noise", 0, _MAX_SEED),
        Parameter(
            "scored_class",
            "enum",
            ScoredClass.TARGET,
            "whose probability is read, for a class",
            choices=choices(ScoredClass),
        ),
    )


def curve_parameters(board: Board, substrate: Substrate) -> tuple[Parameter, ...]:
    """Of deletion and insertion.

    Args:
        board: What the map lies on; `steps` and `step_size` reach to its pixels here and are
            checked against the metric's own unit when it is resolved.
        substrate: The default.
    """
    return (
        _profile("224 pixels a step, blur nearly a box"),
        Parameter(
            "steps",
            "int",
            None,
            "number of steps; unset, and no step_size or fractions: 64 under strict",
            1,
            board.pixels,
        ),
        Parameter(
            "step_size",
            "int",
            None,
            "pixels or cells a step; unset, and no steps or fractions: 224 under reference",
            1,
            board.pixels,
        ),
        Parameter("fractions", "floats", (), "shares, ascending", above=0, below=1),
        Parameter(
            "substrate",
            "enum",
            substrate,
            "what stands in for erased content",
            choices=choices(Substrate),
        ),
        _sigma(board),
        Parameter("seed", "int", 0, "of noise and noisy_linear", 0, _MAX_SEED),
        Parameter(
            "unit",
            "enum",
            ErasureUnit.PIXELS,
            "what is erased at once",
            choices=choices(ErasureUnit),
        ),
        Parameter(
            "order",
            "enum",
            ErasureOrder.MOST_RELEVANT_FIRST,
            "which end of the map goes first",
            choices=choices(ErasureOrder),
        ),
        Parameter(
            "scored_class",
            "enum",
            None,
            "whose probability is read, for a class; unset: target under strict, "
            "predicted under reference",
            choices=choices(ScoredClass),
        ),
    )
