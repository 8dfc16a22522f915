"""`python -m experiments.schema` and `pagesim schema`: the JSON Schema of a config."""

from __future__ import annotations

import typer

from experiments.exits import make_app


def schema() -> None:
    """Print the JSON Schema of a config, for editors and for reading."""
    import json

    from experiments.config import Config

    typer.echo(json.dumps(Config.model_json_schema(), indent=2))


main = make_app(schema)

if __name__ == "__main__":
    main()
