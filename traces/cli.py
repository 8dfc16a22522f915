"""`pagesim trace`: commands on trace files."""

from __future__ import annotations

from experiments.exits import make_app
from traces.sort import sort

main = make_app(sort, name="trace", help="Sort trace files.", no_args_is_help=True)

if __name__ == "__main__":
    main()
