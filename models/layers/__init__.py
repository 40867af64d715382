"""Layers by name: importing this package declares all of them."""

from models.layers import attention, blocks, conv, fpn, fusion, plumbing, pooling, resnet, vgg

__all__ = ["attention", "blocks", "conv", "fpn", "fusion", "plumbing", "pooling", "resnet", "vgg"]
