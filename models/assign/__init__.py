"""Assignment as pure functions: targets and predictions -> positives and their targets."""

from models.assign.anchor_match import match_anchors
from models.assign.ota import assign_ota
from models.assign.task_aligned import TalOptions, assign_task_aligned

__all__ = ["TalOptions", "assign_ota", "assign_task_aligned", "match_anchors"]
