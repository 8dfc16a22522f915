"""`python -m traces.fetch`: public traces by name (experiments/trace_fetch.py)."""

from __future__ import annotations

from experiments.trace_fetch import main

if __name__ == "__main__":
    main()
