import pytest
import torch

from pairlens_server.methods.cam import GradCam, grad_cam
from pairlens_server.recording.activations import FeatureGradient, FeatureMap
from tests.support import facts


def test_grad_cam_matches_the_hand_checked_example():
    # methods.md C: w = (.1, .1), ReLU of the sum [[.3,.2],[.3,.6]], scaled [[.25,0],[.25,1]].
    features = torch.tensor([[[[1.0, 2], [3, 4]], [[2, 0], [0, 2]]]])
    gradients = torch.tensor([[[[0.1, 0.1], [0.1, 0.1]], [[-0.2, 0.4], [0.0, 0.2]]]])
    cam = grad_cam(features, gradients)
    torch.testing.assert_close(cam, torch.tensor([[[0.3, 0.2], [0.3, 0.6]]]))
    scaled = (cam - cam.min()) / (1e-7 + (cam - cam.min()).max())
    torch.testing.assert_close(scaled, torch.tensor([[[0.25, 0], [0.25, 1]]]), atol=1e-5, rtol=0)


def test_evidence_against_the_class_is_zero():
    features = torch.ones(1, 1, 2, 2)
    assert torch.equal(grad_cam(features, -features), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("class_index", [None, 2])
def test_the_map_reads_the_gradient_of_its_own_target(class_index):
    model = facts(2, 2)
    method = GradCam().resolve(model)
    assert FeatureGradient(class_index) in method.needs(class_index)
    recorded = {
        FeatureMap(): torch.ones(1, 3, 2, 2),
        FeatureGradient(class_index): torch.full((1, 3, 2, 2), 0.5),
    }
    heatmap = method.heatmap(recorded, model, class_index)
    torch.testing.assert_close(heatmap, torch.full((1, 2, 2), 1.5))
