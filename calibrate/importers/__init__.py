"""Measured profiles of other projects, made into latency tables."""
