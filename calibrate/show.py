"""`python -m calibrate.show`: latency tables looked at (experiments/table_commands.py)."""

from __future__ import annotations

from experiments.table_commands import main

if __name__ == "__main__":
    main()
