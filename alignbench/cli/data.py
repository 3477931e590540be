"""`alignbench data`: list, check and fetch data sets, and prepare prompts for training."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli.options import DataDir
from alignbench.console import print_table
from alignbench.errors import AlignbenchError

app = typer.Typer(help="Data sets: list, fetch, prepare and check.", no_args_is_help=True)

Cards = Annotated[list[str] | None, typer.Argument(metavar="CARD", help="Default: all cards.")]


def _splits(cards: list[str] | None) -> list[tuple[Any, str]]:
    from alignbench.data.cards import card_names, read_card

    return [(card, split) for card in map(read_card, cards or card_names()) for split in card.splits]


@app.command("list")
def list_cards(data_dir: DataDir = None) -> None:
    """Show the splits with their rows and licence, and where each would be read from."""
    from alignbench.data.load import data_folder, local_files

    folder = data_folder(data_dir)
    rows = []
    for card, split in _splits(None):
        files, remote = local_files(card, split, folder), card.remote(split)
        source = files[0].source if files else (*remote, *card.splits[split])[0]
        place = files[0].place if files else "remote" if remote else "missing"
        rows.append([card.name, split, str(source.rows), card.licence, place])
    print_table(["card", "split", "rows", "licence", "found"], rows)


@app.command()
def check(cards: Cards = None, data_dir: DataDir = None) -> None:
    """Read every local file completely and compare rows and sha256 with the card; exit code 2 if any differs."""
    from alignbench.data.fetch import sha256_of
    from alignbench.data.load import data_folder, local_files
    from alignbench.data.tables import read_rows

    folder = data_folder(data_dir)
    rows, problems = [], []
    for card, split in _splits(cards):
        files = local_files(card, split, folder)
        if not files:
            rows.append([card.name, split, "-", "not on this machine"])
        for file in files:
            source, problem = file.source, ""
            try:
                count, sha256 = sum(1 for _ in read_rows(file.path, source.format, source.at)), sha256_of(file.path)
                if count != source.rows:
                    problem = f"{file.path}: {count} rows, the card says {source.rows}"
                elif source.sha256 not in (None, sha256):
                    problem = f"{file.path}: sha256 is {sha256}, the card says {source.sha256}"
            except AlignbenchError as error:
                problem = str(error)
            problems.append(problem)
            unpinned = "" if source.sha256 else " (the card pins no sha256)"
            rows.append([card.name, split, source.file, problem or f"ok: {source.rows} rows{unpinned}"])
    if not problems:
        raise AlignbenchError("nothing to check on this machine: set ALIGNBENCH_DATA or pass --data-dir DIR")
    print_table(["card", "split", "file", "result"], rows)
    if any(problems):
        raise typer.Exit(2)


@app.command("fetch")
def fetch_cards(cards: Cards = None, data_dir: DataDir = None) -> None:
    """Download what is not on this machine: files into alignbench's cache, hub splits into the hub's."""
    from alignbench.data.load import LocalFile, data_folder, fetch, local_files, missing_message

    folder = data_folder(data_dir)
    rows = []
    for card, split in _splits(cards):
        files, result = local_files(card, split, folder), missing_message(card, split, folder, [])
        if files or card.remote(split):
            match files[0] if files else fetch(card, split, folder):
                case LocalFile(source, _, place):
                    result = f"{place}: {source.file}"
                case found:
                    result = f"fetched: hub {found.source.hub}"
        rows.append([card.name, split, result])
    print_table(["card", "split", "result"], rows)


@app.command("prepare")
def prepare_prompts(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(help="Rows of any format that the trainers read, in a file or a split of the hub."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for train, validation and test .jsonl and prepared.json.")],
    prompt_field: Annotated[str, typer.Option(help="Field of the prompt.")] = "prompt",
    user_field: Annotated[
        str | None, typer.Option(help="Field of the user's id. Default: user, if there is one.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Checkpoint whose tokens prompts are measured in.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Remove longer prompts (the paper: 1000).")] = None,
    max_prompt_characters: Annotated[int | None, typer.Option(help="Remove longer prompts.")] = None,
    prefix_characters: Annotated[
        int, typer.Option(help="Prompts with a common prefix of this length are duplicates; the paper gives no number.")
    ] = 200,
    per_user: Annotated[int, typer.Option(help="Maximal number of prompts per user, if there are ids.")] = 200,
    validation: Annotated[float, typer.Option(help="Proportion of the users, or of the prompts.")] = 0.1,
    test: Annotated[float, typer.Option(help="Proportion of the users, or of the prompts.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the hash that splits the users.")] = 0,
    no_pii: Annotated[bool, typer.Option("--no-pii", help="Keep personal data in the training split.")] = False,
) -> None:
    """Prepare prompts for training as in InstructGPT: deduplicate, limit, split by user, remove personal data."""
    from alignbench.data.prepare import Settings, prepare

    given = {name: value for name, value in context.params.items() if name in Settings.__dataclass_fields__}
    done = prepare(source, out, Settings(**given | {"pii": not no_pii}))
    # the paper's Tables 6 to 9 as one, and what was removed
    lengths = ("mean", "std", "min", "25%", "50%", "75%", "max")
    header = ["split", "prompts", "users", "per user: mean", "max", f"{done.length_unit}: mean", *lengths[1:]]
    rows = []
    for name, split in done.splits.items():
        cells = [split["users"], split["per_user_mean"], split["per_user_max"], *map(split["length"].get, lengths)]
        shown = ("–" if cell is None else f"{cell:.1f}".removesuffix(".0") for cell in cells)
        rows.append([name, str(split["prompts"]), *shown])
    print_table(header, rows)
    counts = {"read": done.source["rows"]} | {f"removed: {reason}": n for reason, n in done.removed.items()}
    counts |= {f"personal data: {kind}": len(found) for kind, found in done.pii.items()}
    print_table(["prompts", ""], [[name, str(count)] for name, count in counts.items()])
    print(f"format: {done.format}")
    if done.settings.user_field is None:
        print(
            "users: the rows have no field user (--user-field NAME), so no limit per user; each prompt is split alone"
        )
    found = "detected by pattern (addresses and numbers) in the training split; names are not detected"
    print(f"personal data: {'not checked (--no-pii)' if no_pii else found}")
    print(f"written: {out}")
