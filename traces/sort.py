"""`python -m traces.sort`: a trace's rows by arrival (experiments/trace_sort.py)."""

from __future__ import annotations

from experiments.trace_sort import main

if __name__ == "__main__":
    main()
