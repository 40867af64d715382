"""COCO evaluation: protocol, evaluator, confusion matrix and plots."""
