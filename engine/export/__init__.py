"""Export of a trained model: formats, and the gate that compares an exported file with PyTorch."""
