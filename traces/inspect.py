"""`python -m traces.inspect`: what a trace is like (experiments/trace_inspect.py)."""

from __future__ import annotations

from experiments.trace_inspect import main

if __name__ == "__main__":
    main()
