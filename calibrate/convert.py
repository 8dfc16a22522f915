"""`python -m calibrate.convert`: a measurement as a latency table (experiments/measure.py)."""

from __future__ import annotations

from experiments.measure import convert_main

if __name__ == "__main__":
    convert_main()
