"""Running a detector once with hooks that note what its layers compute."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from models.detector import Detector


def run_hooked(model: Detector, image: Tensor, handles: Sequence[RemovableHandle]) -> None:
    """Run the model on one image (3, H, W) in evaluation mode, then take the hooks off; its mode stays."""
    training = model.training
    try:
        model.eval()(image[None])
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
