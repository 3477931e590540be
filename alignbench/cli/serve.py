"""`alignbench labels serve`: the labeling page."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.cli.options import Prompts
from alignbench.console import print_table, printable
from alignbench.errors import AlignbenchError
from alignbench.progress import for_terminal

if TYPE_CHECKING:
    from alignbench.labels.study.store import Item, Settings

WIDTH = 0.1


def serve(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS…", help="Two or more runs with the task answers, or files of outputs; also NAME=PATH."
        ),
    ],
    labelers: Annotated[
        str, typer.Option(metavar="FILE", help="Table of labelers: columns labeler and, optionally, group.")
    ],
    out: Annotated[Path, typer.Option(help="SQLite file of the study; the same command continues it.")],
    overlap: Annotated[int, typer.Option(min=1, help="Labelers per prompt.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of prompts, drawn at random; default: all.")] = None,
    qualification: Annotated[
        str | None, typer.Option(metavar="FILE", help="Labels of one reference labeler; these items come first.")
    ] = None,
    pass_mark: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Agreement with the reference rankings, below which no items follow."),
    ] = None,
    prompts: Prompts = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and assignment.")] = 0,
    baseline: Annotated[
        str | None, typer.Option(help="System of the admin view's win rates; default: the first.")
    ] = None,
    stop_width: Annotated[float, typer.Option(help="Width of a win rate's interval at which to stop.")] = WIDTH,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    url: Annotated[str | None, typer.Option(help="Address in the links, if a proxy with TLS is in front.")] = None,
    new_links: Annotated[
        bool, typer.Option("--new-links", help="Make new links; the old ones become invalid.")
    ] = False,
) -> None:
    """Serve a page on which people rank, rate and flag outputs, and store the labels in an SQLite file."""
    if len(systems) < 2:
        raise AlignbenchError("a study needs at least two systems, whose outputs are compared")
    if pass_mark is not None and qualification is None:
        raise AlignbenchError("--pass-mark needs --qualification FILE")
    if not 0 < stop_width <= 1:
        raise AlignbenchError(f"--stop-width {stop_width}: a width from 0 to 1")
    who = read_labelers(labelers)
    if url is not None and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url, re.IGNORECASE):
        raise AlignbenchError(f"--url {url}: an address that begins with http:// or https://")
    if overlap > len(who):
        raise AlignbenchError(f"--overlap {overlap}: {labelers} has only {len(who)} labelers")
    from alignbench.evaluation.rank import find_systems
    from alignbench.evaluation.study import qualification_items, study_items
    from alignbench.labels.study.store import Settings
    from alignbench.labels.table import read_labels

    with for_terminal() as progress:
        found = find_systems(systems, "runs", prompts=prompts, progress=progress)
    names = [system.name for system in found]
    if baseline is not None and baseline not in names:
        raise AlignbenchError(f"--baseline {baseline}: it must be one of the systems: {', '.join(names)}")
    items, reference = study_items(found, limit, seed), None
    if qualification is not None:
        try:
            gold, reference = qualification_items(read_labels(qualification))
        except AlignbenchError as error:
            raise AlignbenchError(
                f"{qualification}: {error}".replace(f"{qualification}: {qualification}", qualification)
            ) from None
        if pass_mark is not None and not any(len({own["rank"] for own in item.gold or ()}) > 1 for item in gold):
            raise AlignbenchError(f"{qualification}: --pass-mark needs reference rankings that are not all ties")
        if reference in who:
            raise AlignbenchError(f"{qualification}: the reference {reference} is also a labeler; rename one")
        items = [*gold, *items]
    run_study(
        out, items, Settings(overlap, seed, reference, pass_mark), who, baseline or names[0],
        stop_width=stop_width, host=host, port=port, url=url, new_links=new_links,
    )  # fmt: skip


def read_labelers(file: str) -> dict[str, str | None]:
    """Labeler -> group. Raises AlignbenchError for a labeler who occurs twice, and without any."""
    from alignbench.data.tables import read_source

    found: dict[str, str | None] = {}
    for row in read_source(file):
        with row.located():
            name, group = str(row.field("labeler") or "").strip(), row.fields.get("group")
            if not name or name in found:
                raise ValueError(f"labeler {name!r} occurs twice" if name else "no labeler")
            found[name] = str(group).strip() or None if group is not None else None
    if not found:
        raise AlignbenchError(f"{file}: no labelers")
    return found


def run_study(
    out: Path,
    items: Sequence[Item],
    settings: Settings,
    labelers: Mapping[str, str | None],
    baseline: str,
    *,
    stop_width: float = WIDTH,
    host: str = "127.0.0.1",
    port: int = 8000,
    url: str | None = None,
    new_links: bool = False,
    opened: Callable[[str], object] | None = None,
) -> None:
    """Create or continue a study, print new links, and serve its page until Ctrl-C. opened: called with each labeler's
    link"""
    from alignbench.labels.study.results import Rule
    from alignbench.labels.study.server import listen, make_app, serve
    from alignbench.labels.study.store import open_study

    with listen(host, port) as listening:
        study, secrets = open_study(out, items, settings, labelers, new_links=new_links)
        try:
            # both signals end in `finally`, also before the server has its own handlers
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
            name = socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
            where = (url or f"http://{name}:{listening.getsockname()[1]}").rstrip("/")
            links = {name: f"{where}/{'' if name else 'admin'}#{secret}" for name, secret in secrets.items()}
            if links:
                print_table(("labeler", "link"), [(name or "(admin view)", link) for name, link in links.items()])
                print("Links are printed once; --new-links replaces them.")
            own = sum(item.gold is None for item in items)
            print(
                f"{own} prompts, {settings.overlap} labelers each; labels: {printable(str(out))}; page: {where}",
                flush=True,
            )
            for name, link in links.items():
                if name and opened is not None:
                    opened(link)
            serve(make_app(study, Rule(baseline, stop_width), where), listening)
        finally:
            study.close()  # all of it is then in the one file
