"""`python -m calibrate.run`: a latency table measured here (experiments/measure.py)."""

from __future__ import annotations

from experiments.measure import main

if __name__ == "__main__":
    main()
