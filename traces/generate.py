"""`python -m traces.generate`: a synthetic trace as a file (experiments/trace_generate.py)."""

from __future__ import annotations

from experiments.trace_generate import main

if __name__ == "__main__":
    main()
