"""Necks that are put on any base between its own neck and its head; importing this package declares them."""

from models.necks import assn, ssfpn

__all__ = ["assn", "ssfpn"]
