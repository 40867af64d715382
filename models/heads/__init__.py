"""Heads: what the last row of a model makes of its maps, and how it learns."""

from models.heads.base import Head, RecipeOption, merge_gains

__all__ = ["Head", "RecipeOption", "merge_gains"]
