"""`python -m calibrate.from_steps`: a step model from a step log (experiments/from_steps.py)."""

from __future__ import annotations

from experiments.from_steps import main

if __name__ == "__main__":
    main()
