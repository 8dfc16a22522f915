"""`python -m calibrate.validate`: the clock beside real kernels (experiments/trials.py)."""

from __future__ import annotations

from experiments.trials_command import main

if __name__ == "__main__":
    main()
