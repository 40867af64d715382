"""Layers by name: importing this package declares all of them."""

from models.layers import blocks, conv, fpn, plumbing, pooling, resnet

__all__ = ["blocks", "conv", "fpn", "plumbing", "pooling", "resnet"]
