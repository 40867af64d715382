"""torch.hub entry points: `torch.hub.load("path/to/this", "create", "yolov8n-assn", source="local")`."""

dependencies = ["torch", "torchvision", "numpy", "yaml"]


def create(name: str = "yolov8n-assn", num_classes: int = 80, **options):
    """An untrained detector by name; see `models.build_model`."""
    from models import build_model

    return build_model(name, num_classes, **options)


def custom(path: str, device: str = "cpu"):
    """A trained detector from a checkpoint; see `models.load_model`."""
    from models import load_model

    return load_model(path, device)
