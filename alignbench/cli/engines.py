"""`alignbench engines`: the features of each engine, and which are installed."""

import json
from typing import Annotated

import typer

from alignbench.cli.options import AsJson
from alignbench.console import print_table


def list_engines(
    endpoints: Annotated[
        list[str] | None, typer.Argument(help="Running servers to test: https://host/v1#model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the engines with their features and whether they are installed, or test running servers."""
    from alignbench.models.engines import COLUMNS, engines, gpus

    if endpoints:
        from alignbench.models.remote.endpoint import EndpointEngine

        rows = [EndpointEngine(spec).features() for spec in endpoints]
    else:
        rows = engines()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print_table(
        ("engine", *COLUMNS.values(), "on this machine", "use"),
        [[row[name] for name in ("engine", *COLUMNS, "here", "use")] for row in rows],
    )
    if not endpoints:
        print(f"GPUs: {'; '.join(gpus()) or 'none found by nvidia-smi'}")
