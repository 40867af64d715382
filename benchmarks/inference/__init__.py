"""Latency by stage, batch size and runtime."""
