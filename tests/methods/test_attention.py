import pytest
import torch

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import RawAttention
from pairlens_server.recording.activations import ReadoutAttention
from tests.support import facts


def scaled(values: torch.Tensor) -> torch.Tensor:
    return (values - values.min()) / (values.max() - values.min())


def test_mean_over_heads_matches_the_hand_checked_example():
    # methods.md B: heads (.1,.4,.5) and (.3,.3,.4) give (0,.6,1) after min-max.
    model = facts(1, 3, prefix=1, readout=(0,))
    heads = torch.tensor([[[0.0, 0.1, 0.4, 0.5], [0.0, 0.3, 0.3, 0.4]]])
    method = RawAttention(block=1).resolve(model)
    heatmap = method.heatmap({ReadoutAttention(1): heads}, model, None)
    assert heatmap.shape == (1, 1, 3)
    torch.testing.assert_close(scaled(heatmap[0, 0]), torch.tensor([0, 0.6, 1]))


def test_one_head_is_that_heads_row():
    model = facts(1, 3, prefix=1, readout=(0,))
    heads = torch.tensor([[[0.0, 0.1, 0.4, 0.5], [0.0, 0.3, 0.3, 0.4]]])
    method = RawAttention(block=0, head=1).resolve(model)
    heatmap = method.heatmap({ReadoutAttention(0): heads}, model, None)
    torch.testing.assert_close(heatmap[0, 0], torch.tensor([0.3, 0.3, 0.4]))


def test_patches_are_laid_out_row_by_row():
    model = facts(2, 3, prefix=2, readout=(0, 1))
    row = torch.tensor([[[9.0, 9.0, 0, 1, 2, 3, 4, 5]]])
    method = RawAttention(block=0, head=0).resolve(model)
    heatmap = method.heatmap({ReadoutAttention(0): row}, model, None)
    torch.testing.assert_close(heatmap[0], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


def test_default_block_is_the_last():
    assert RawAttention().resolve(facts(1, 1, blocks=4)).block == 3


@pytest.mark.parametrize(
    ("method", "field", "range_text"),
    [
        (RawAttention(block=2), "method.raw_attention.block", "0 to 1"),
        (RawAttention(block=-1), "method.raw_attention.block", "0 to 1"),
        (RawAttention(head=2), "method.raw_attention.head", "0 to 1"),
    ],
)
def test_indices_out_of_range_name_field_and_range(method, field, range_text):
    with pytest.raises(InvalidParameterError, match=range_text) as caught:
        method.resolve(facts(1, 2, blocks=2, heads=2))
    assert caught.value.field == field
