"""The command line: ``scldm demo|train|generate|evaluate``."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anndata as ad
import pandas as pd
import scvi
from sklearn.model_selection import train_test_split

import scldm
from scldm.data import pbmc68k
from scldm.metrics import evaluate, side_by_side
from scldm.metrics._rows import ALL
from scldm.pl import compare, history, report

__all__ = ["main"]

SETUP = {
    "layer": "layer with the counts (X if left out)",
    "library_size_key": "obs column with the library size over all measured genes",
    "cell_type_key": "obs column with the cell type",
    "batch_key": "obs column with the batch",
    "perturbation_key": "obs column with the perturbation, combinations as A+B",
    "control_label": "the value of unperturbed cells",
    "dose_key": "obs column with the dose",
    "time_key": "obs column with the time",
    "spatial_key": "obsm entry with the coordinates",
}
COVARIATES = ("categorical_covariate_keys", "continuous_covariate_keys")
TRAINING = {"max_epochs": int, "max_steps": int, "accelerator": str}
SAMPLING = {"sampler": str, "steps": int, "guidance_scale": float, "batch_size": int}
RULER: dict[str, type] = {
    "n_top_genes": int,
    "n_pcs": int,
    "max_cells": int,
    "n_bootstrap": int,
    "n_jobs": int,
}
NUMERIC_CONDITIONS = ("dose", "time")
_DOSES = re.compile(r"\.?\d.*\d\.?")
"""Doses of a combination's members, whatever its separator is, which only the model knows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments; those of the process if ``None``.

    Returns
    -------
    The exit code: 0, or 2 if input or arguments are wrong. The reason is then one line on the
    standard error.
    """
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, KeyError, OSError) as error:
        if args.traceback:
            raise
        print(f"scldm: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all four commands; ``run`` in its result is the function to call."""
    parser = argparse.ArgumentParser(
        prog="scldm", description="Generate single cells by latent diffusion."
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_generate(commands)
    _add_evaluate(commands)
    return parser


def _add_demo(commands: Any) -> None:
    command = commands.add_parser(
        "demo",
        help="train, generate and evaluate on data that comes along",
        description="Train on 560 blood cells, generate 140, and compare them with the 140 that "
        "were held out. Needs no data and no network.",
    )
    command.add_argument("--out", type=Path, default=Path("scldm_demo"), help="folder to write")
    _add_seed(command)
    _add_optional(command, TRAINING)
    command.set_defaults(run=_demo)


def _add_train(commands: Any) -> None:
    command = commands.add_parser("train", help="train a model on an h5ad file of counts")
    command.add_argument("data", type=Path, help="h5ad file")
    command.add_argument("--out", type=Path, required=True, help="folder for the model")
    command.add_argument("--overwrite", action="store_true", help="write over the model there")
    for name, text in SETUP.items():
        command.add_argument(_option(name), help=text)
    for name in COVARIATES:
        command.add_argument(_option(name), nargs="+", metavar="KEY", help="obs columns")
    command.add_argument("--gene-likelihood", help="distribution of the counts: nb or zinb")
    _add_seed(command)
    _add_optional(command, TRAINING)
    command.set_defaults(run=_train)


def _add_generate(commands: Any) -> None:
    command = commands.add_parser("generate", help="generate cells from a trained model")
    command.add_argument("model", type=Path, help="folder of the model")
    command.add_argument("--n-cells", type=int, default=1000, help="default: %(default)s")
    command.add_argument(
        "--condition",
        type=_condition,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="what the cells are to be, for example cell_type=B; what is not given is drawn as "
        "it occurs in the training cells",
    )
    command.add_argument("--out", type=Path, required=True, help="h5ad file to write")
    _add_seed(command)
    _add_optional(command, SAMPLING)
    command.set_defaults(run=_generate)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser("evaluate", help="compare generated cells with real ones")
    command.add_argument("real", type=Path, help="h5ad file of real cells, best held out")
    command.add_argument("generated", type=Path, help="h5ad file of generated cells")
    command.add_argument("--real-train", type=Path, help="h5ad file of the training cells")
    command.add_argument("--groupby", help="obs column with the cell type")
    command.add_argument("--layer", help=SETUP["layer"])
    command.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="metrics to compute (all that apply)"
    )
    _add_optional(command, RULER)
    command.add_argument(
        "--out",
        type=Path,
        help="csv file to write, a row for each metric; how cells were prepared goes beside it (json)",
    )
    command.add_argument("--figure", type=Path, help="figure to write (png, pdf, svg)")
    command.add_argument("--report", type=Path, help="page with all figures to write (html)")
    _add_seed(command)
    command.set_defaults(run=_evaluate)


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_optional(command: argparse.ArgumentParser, options: dict[str, type]) -> None:
    for name, kind in options.items():
        command.add_argument(_option(name), type=kind)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _condition(text: str) -> tuple[str, str | float]:
    """``NAME=VALUE`` as a pair; names of cell types may be digits, so only doses are numbers."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    if name not in NUMERIC_CONDITIONS:
        return name, value
    try:
        return name, float(value)
    except ValueError:
        if name == "dose" and _DOSES.fullmatch(value):
            return name, value
        raise argparse.ArgumentTypeError(f"{name} must be a number, not {value!r}") from None


def _demo(args: argparse.Namespace) -> None:
    scvi.settings.seed = args.seed
    args.out.mkdir(parents=True, exist_ok=True)
    with _step("data"):
        adata = pbmc68k()
        kept, held_out = train_test_split(
            range(adata.n_obs),
            test_size=0.2,
            stratify=adata.obs["cell_type"],
            random_state=args.seed,
        )
        train, test = adata[sorted(kept)].copy(), adata[sorted(held_out)].copy()
    with _step("train"):
        scldm.SCLDM.setup_anndata(train, cell_type_key="cell_type")
        model = scldm.SCLDM(train)
        model.train(**_given(args, TRAINING))
    with _step("generate"):
        new = model.generate(cell_type=test.obs["cell_type"].tolist(), seed=args.seed)
    with _step("evaluate"):
        table = evaluate(test, new, train, "cell_type", seed=args.seed)
    with _step("write"):
        model.save(str(args.out / "model"), overwrite=True)
        _write_cells(new, args.out / "generated.h5ad")
        _write_table(table, args.out / "metrics.csv")
        with _beside(args.out / "compare.png") as draft:
            compare(test, new, "cell_type", seed=args.seed, save=draft)
        with _beside(args.out / "history.png") as draft:
            history(model, save=draft)
    _print_table(table)
    written = (
        "generated.h5ad",
        "metrics.csv",
        "metrics.preparation.json",
        "compare.png",
        "history.png",
        "model/",
    )
    print(f"In {args.out}/: {', '.join(written)}")


def _train(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.overwrite:
        # Said before the training, not after.
        raise ValueError(f"`{args.out}` exists. Give another --out, or --overwrite.")
    scvi.settings.seed = args.seed
    adata = _read(args.data)
    scldm.SCLDM.setup_anndata(adata, **_given(args, [*SETUP, *COVARIATES]))
    model = scldm.SCLDM(adata, **_given(args, ["gene_likelihood"]))
    with _step("train"):
        model.train(**_given(args, TRAINING))
    model.save(str(args.out), overwrite=True)
    print(f"Wrote {args.out}/")


def _generate(args: argparse.Namespace) -> None:
    conditions = dict(args.condition)
    if len(conditions) < len(args.condition):
        raise ValueError("A condition was given twice. Give one value for each.")
    _require(args.model)
    model = scldm.SCLDM.load(str(args.model), adata=False)
    conditions = {name: _as_category(model, name, value) for name, value in conditions.items()}
    with _step("generate"):
        made = model.generate(args.n_cells, seed=args.seed, **_given(args, SAMPLING), **conditions)
    new = cast(ad.AnnData, made)
    _write_cells(new, args.out)
    print(f"Wrote {args.out}: {new.n_obs} cells, {new.n_vars} genes")


def _as_category(model: scldm.SCLDM, name: str, value: str | float) -> Any:
    """Categories that are not text, such as a donor's number, from the text on the command line."""
    known = [c for c in model.conditions if c.name == name and hasattr(c, "categories")]
    return next((x for c in known for x in c.categories if str(x) == value), value)


def _evaluate(args: argparse.Namespace) -> None:
    real, generated = _read(args.real), _read(args.generated)
    train = None if args.real_train is None else _read(args.real_train)
    options = {"layer": args.layer, "seed": args.seed, **_given(args, ["n_pcs", "max_cells"])}
    ruler = {**options, **_given(args, RULER)}
    with _step("evaluate"):
        table = evaluate(real, generated, train, args.groupby, metrics=args.metrics, **ruler)
    if args.out is not None:
        _write_table(table, args.out)
    if args.figure is not None:
        with _beside(args.figure) as draft:
            compare(real, generated, args.groupby, **options, save=draft)
    _print_table(table)
    if args.report is not None:
        with _beside(args.report) as draft:
            report(real, generated, train, args.groupby, path=draft, table=table, **options)


def _given(args: argparse.Namespace, names: Sequence[str] | dict[str, type]) -> dict[str, Any]:
    """The options that were given, so that defaults stay where the API states them."""
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _require(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"`{path}` does not exist.")


def _read(path: Path) -> ad.AnnData:
    _require(path)
    return ad.read_h5ad(path)


def _write_cells(adata: ad.AnnData, path: Path) -> None:
    with _beside(path) as draft:
        adata.write_h5ad(draft, compression="gzip")


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with _beside(path) as draft:
        table.to_csv(draft, index=False)
    with _beside(path.with_suffix(".preparation.json")) as draft:
        draft.write_text(
            json.dumps(table.attrs["preprocessing"], indent=2) + "\n", encoding="utf-8"
        )


def _print_table(table: pd.DataFrame) -> None:
    print(side_by_side(table).to_string(float_format="{:.3f}".format))
    silent = table[(table["group"] == ALL) & (table["note"] != "")]
    for source, metric, note in silent[["source", "metric", "note"]].itertuples(index=False):
        print(f"no {metric} of {source}: {note}")


@contextmanager
def _step(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{name:<10}{time.perf_counter() - start:8.1f} s", flush=True)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` once all is written."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        yield draft
        draft.replace(path)


def _one_line(error: Exception) -> str:
    # The text of a KeyError is the representation of its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split())


if __name__ == "__main__":
    sys.exit(main())
