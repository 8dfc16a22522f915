"""`python -m experiments.schema` and `pagesim schema`: what a config may say."""

from __future__ import annotations

from typing import Annotated

import typer

from experiments.exits import make_app


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/reference/config.md instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of a config, for editors and for reading."""
    import json

    from experiments.config import Config
    from experiments.reference import config_page

    described = Config.model_json_schema()
    text = config_page(described) if markdown else json.dumps(described, indent=2)
    typer.echo(text.rstrip("\n"))


main = make_app(schema)

if __name__ == "__main__":
    main()
