"""Products by oneDNN are torch's but for rounding, and so is all that is made of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from pairlens_server.recording import products
from pairlens_server.recording.primitives import Embedding, TransformerAttributionRow
from pairlens_server.recording.products import OneDnnProducts, onednn_is_faster
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.recording.test_recorder_batches import MODELS, agree, steep, still
from tests.support import pixels, recorded, zoo_model

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)

ATTRIBUTION = TransformerAttributionRow(0, ClassLogit(1), single_precision=True)


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def computed_by_onednn(compute) -> int:
    """How many products oneDNN computes meanwhile."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        compute()
    calls = {event.key: event.count for event in seen.key_averages()}
    return calls.get("mkldnn::_linear_pointwise", 0)


def by_onednn(compute) -> int:
    """The same where it is asked to."""
    with OneDnnProducts():
        return computed_by_onednn(compute)


@pytest.fixture
def every_product(monkeypatch):
    """Even the smallest is left to oneDNN."""
    monkeypatch.setattr(products, "_LIGHT", 0)
    monkeypatch.setattr(products, "_FEW", 0)


@pytest.fixture
def choose(monkeypatch):
    def choose(faster: bool) -> None:
        monkeypatch.setattr(products, "onednn_is_faster", lambda: faster)

    return choose


LAYOUTS = {
    "matrix": (normal(3, 8), normal(5, 8), normal(5)),
    "tokens": (normal(2, 3, 8), normal(5, 8), normal(5)),
    "map": (normal(2, 3, 4, 8), normal(5, 8), normal(5)),
    "no bias": (normal(2, 3, 8), normal(5, 8), None),
    "one output": (normal(2, 3, 8), normal(1, 8), normal(1)),
    "one row": (normal(1, 8), normal(5, 8), normal(5)),
    "transposed tokens": (normal(2, 8, 3).mT, normal(5, 8), normal(5)),
    "some tokens": (normal(2, 6, 8)[:, [0, 3]], normal(5, 8), normal(5)),
    "every other feature": (normal(3, 16)[:, ::2], normal(5, 8), normal(5)),
    "expanded tokens": (normal(2, 1, 8).expand(2, 4, 8), normal(5, 8), normal(5)),
    "transposed weight": (normal(3, 8), normal(8, 5).mT, normal(5)),
    "rows of a weight": (normal(3, 8), normal(9, 8)[2:7], normal(5)),
    "more than a block": (normal(2, 17, 129), normal(65, 129), normal(65)),
    "more than a block, transposed": (normal(2, 17, 65), normal(65, 129).mT, normal(129)),
}


@needs_onednn
@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("name", LAYOUTS)
def test_linear_layers_of_any_layout(name):
    given, weight, bias = LAYOUTS[name]
    with OneDnnProducts():
        found = F.linear(given, weight, bias)
    exact = F.linear(given.double(), weight.double(), None if bias is None else bias.double())
    assert found.shape == exact.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert by_onednn(lambda: F.linear(given, weight, bias)) == 1
    assert by_onednn(lambda: F.linear(given, weight=weight, bias=bias)) == 1


@needs_onednn
@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("name", LAYOUTS)
def test_products_with_matrices_of_any_layout(name):
    left, right, _ = LAYOUTS[name]
    right = right.mT
    exact = left.double() @ right.double()
    for multiply in (torch.matmul, torch.Tensor.matmul, lambda a, b: a @ b):
        with OneDnnProducts():
            found = multiply(left, right)
        assert found.shape == exact.shape
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
        assert by_onednn(lambda multiply=multiply: multiply(left, right)) == 1


@needs_onednn
@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_those_of_torch(name):
    given, weight, bias = LAYOUTS[name]

    def slope(dtype: torch.dtype) -> torch.Tensor:
        leaf = given.detach().to(dtype).requires_grad_()
        output = F.linear(leaf, weight.to(dtype), None if bias is None else bias.to(dtype))
        (found,) = torch.autograd.grad((output**2).sum(), leaf)
        return found

    with OneDnnProducts():
        found = slope(torch.float32)
    torch.testing.assert_close(found.double(), slope(torch.float64), rtol=1e-4, atol=1e-4)
    assert by_onednn(lambda: slope(torch.float32)) == 2


@pytest.mark.usefixtures("every_product")
def test_what_is_not_its_own_is_left_to_torch():
    given, weight = normal(3, 8), normal(5, 8)
    trained = normal(5, 8).requires_grad_()
    parts = [normal(9, 12)[2:7, 3:11], normal(10, 8)[::2], normal(5, 16)[:, ::2]]
    parts += [normal(8, 16)[:, ::2].mT[:5], normal(5, 1).expand(5, 8)]
    biases = [normal(10)[::2], normal(1).expand(5), normal(1)[0], normal(1), normal(3, 5)]
    others = [
        *(partial(F.linear, given, part) for part in parts),
        *(partial(torch.matmul, given, part.mT) for part in parts),
        *(partial(F.linear, given, weight, bias) for bias in biases),
        lambda: given @ weight.mT.to_sparse(),
        lambda: F.linear(given.double(), weight.double()),
        lambda: F.linear(given.bfloat16(), weight.bfloat16()),
        lambda: F.linear(given, trained),
        lambda: F.linear(given, weight, normal(5).requires_grad_()),
        lambda: F.linear(given[0], weight),
        lambda: normal(2, 3, 8) @ normal(2, 8, 5),
        lambda: given @ normal(8),
        lambda: torch.matmul(given, weight.mT, out=torch.empty(3, 5)),
        lambda: F.conv2d(normal(1, 3, 4, 4), normal(2, 3, 2, 2)),
        lambda: given * 2,
    ]
    for compute in others:
        expected = compute()
        with OneDnnProducts():
            assert torch.equal(compute(), expected)
        assert by_onednn(compute) == 0
    leaf = given.clone().requires_grad_()
    with OneDnnProducts():
        F.linear(leaf, trained).sum().backward()
    assert leaf.grad is not None
    assert trained.grad is not None


@needs_onednn
def test_small_products_are_left_to_torch():
    weight = normal(2048, 1024)
    assert by_onednn(lambda: F.linear(normal(4, 64), normal(64, 64))) == 0
    assert by_onednn(lambda: F.linear(normal(3, 1024), weight)) == 0
    assert by_onednn(lambda: F.linear(normal(4, 1024), weight)) == 1


@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize(
    "operands",
    [
        (normal(3, 8), normal(5, 7)),
        (normal(3, 8), normal(2, 5, 8)),
        (normal(0, 8), normal(5, 7)),
        (normal(3, 8), normal(5, 8), normal(4)),
        (normal(3, 8), normal(5, 8), normal(5).double()),
        (normal(3, 8), normal(5, 8).double()),
    ],
)
def test_what_does_not_fit_fails_as_in_torch(operands):
    with pytest.raises(RuntimeError) as plain:
        F.linear(*operands)
    with OneDnnProducts(), pytest.raises(RuntimeError) as ours:
        F.linear(*operands)
    assert str(ours.value) == str(plain.value)


@needs_onednn
@pytest.mark.usefixtures("every_product")
def test_gradients_have_gradients():
    given, weight = normal(3, 8), normal(5, 8)

    def curvature(dtype: torch.dtype) -> torch.Tensor:
        leaf = given.to(dtype).requires_grad_()
        score = (F.linear(leaf, weight.to(dtype)) ** 3).sum()
        (slope,) = torch.autograd.grad(score, leaf, create_graph=True)
        (found,) = torch.autograd.grad((slope**2).sum(), leaf)
        return found

    with OneDnnProducts():
        found = curvature(torch.float32)
    torch.testing.assert_close(found.double(), curvature(torch.float64), rtol=1e-4, atol=1e-4)
    assert by_onednn(lambda: curvature(torch.float32)) >= 3


@needs_onednn
@pytest.mark.usefixtures("every_product")
def test_modes_inside_see_the_functions_first():
    seen = []

    class Seeing(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    def compute() -> None:
        with Seeing():
            F.linear(normal(3, 8), normal(5, 8))

    assert by_onednn(compute) == 1
    assert F.linear in seen


RUNS = {
    "record": lambda r, x: r.record(x, {Embedding(): [0, 1]}),
    "record TIBAV": lambda r, x: r.record(x, {ATTRIBUTION: [0, 1]}),
    "scores": lambda r, x: r.scores(x, ClassLogit(1)),
    "log_probabilities": lambda r, x: r.log_probabilities(x),
    "embeddings": lambda r, x: r.embeddings(x),
    "input_gradients": lambda r, x: r.input_gradients(x, ClassLogit(1)),
}


@needs_onednn
@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("name", RUNS)
def test_a_recorder_takes_what_is_faster(choose, name):
    """A block of a ViT has four linear layers."""
    model = zoo_model("vit")
    images = pixels(model, 2)
    choose(False)
    assert computed_by_onednn(partial(RUNS[name], Recorder(model), images)) == 0
    choose(True)
    calls = computed_by_onednn(partial(RUNS[name], Recorder(model), images))
    assert calls >= 4 * model.blocks * (2 if "grad" in name else 1)


@needs_onednn
@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("name", MODELS)
def test_every_activation_is_that_of_torch(choose, name):
    model = zoo_model(name)
    size = Recorder(model).facts.embedding_size
    target = ClassLogit(1) if model.classes else Similarity.to(normal(1, size))
    found = {}
    for faster in (True, False):
        choose(faster)
        recorder = Recorder(model)
        wanted = still(recorder.facts) + steep(recorder.facts, target)
        found[faster] = recorded(recorder, pixels(model, 2), *wanted)
    assert found[True].keys() == found[False].keys()
    for activation, expected in found[False].items():
        agree(found[True][activation], expected, activation)


@needs_onednn
@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("name", ["vit", "vit-avg", "vit-registers", "deit-distilled"])
def test_tibav_in_single_precision_is_as_exact_as_by_torch(choose, name):
    model = zoo_model(name)
    exact_row = TransformerAttributionRow(0, ClassLogit(1), single_precision=False)
    recorder = Recorder(model)
    exact = recorded(recorder, pixels(model, 4), exact_row)[exact_row]
    errors = {}
    for faster in (True, False):
        choose(faster)
        found = recorded(Recorder(model), pixels(model, 4), ATTRIBUTION)[ATTRIBUTION]
        errors[faster] = float((found - exact).norm() / exact.norm())
    assert errors[True] < 2 * errors[False] + 1e-5


def test_the_choice_is_for_what_is_right_and_faster(monkeypatch):
    def times(ours: float, torchs: float) -> None:
        took = {products._multiplied: ours, F.linear: torchs}
        monkeypatch.setattr(products, "_seconds", lambda multiply, *_: took[multiply])

    choice = onednn_is_faster.__wrapped__
    if torch.backends.mkldnn.is_available():
        times(1.0, 1.5)
        assert choice()
    times(1.0, 1.1)
    assert not choice()
    monkeypatch.setattr(products, "_multiplied", lambda x, w, b: F.linear(x, w, b) + 0.01)
    times(1.0, 1.5)
    assert not choice()

    def missing(*_: object) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(products, "_multiplied", missing)
    assert not choice()
