from types import SimpleNamespace

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import scldm
from scldm import cli
from scldm.data import pbmc68k

matplotlib.use("Agg")

TINY = ["--max-epochs", "2", "--max-steps", "10", "--accelerator", "cpu"]


def parse(*argv):
    return cli.build_parser().parse_args(argv)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Real test cells, training cells, and real cells in the place of generated ones."""
    folder = tmp_path_factory.mktemp("cells")
    cells = pbmc68k()[:, :100]
    # Common types: a random training set has all of them.
    cells = cells[cells.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "Dendritic"])]
    order = np.random.default_rng(0).permutation(cells.n_obs)
    paths = {}
    for name, rows in zip(("real", "train", "new"), np.split(order[:240], [60, 180]), strict=True):
        paths[name] = str(folder / f"{name}.h5ad")
        cells[rows].write_h5ad(paths[name])
    return paths


class Model:
    """Stands in for the model and writes down what it is asked."""

    asked: list[tuple] = []
    conditions = [SimpleNamespace(name="batch", categories=[0, 1])]

    @classmethod
    def setup_anndata(cls, adata, **keys):
        cls.asked.append(("setup", keys))

    def __init__(self, adata, **options):
        self.asked.append(("init", options))

    def train(self, **options):
        self.asked.append(("train", options))

    def save(self, path, overwrite):
        self.asked.append(("save", path, overwrite))

    @classmethod
    def load(cls, path, adata):
        cls.asked.append(("load", path, adata))
        return cls(None)

    def generate(self, n_cells=None, **options):
        self.asked.append(("generate", n_cells, options))
        return ad.AnnData(csr_matrix((n_cells, 2)))


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(Model, "asked", [])
    monkeypatch.setattr(scldm, "SCLDM", Model)
    return Model.asked


def test_help_names_all_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("demo", "train", "generate", "evaluate"))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fit"],
        ["train", "data.h5ad"],
        ["generate", "model", "--out", "x", "--condition", "B"],
        ["generate", "model", "--out", "x", "--condition", "cell_type="],
        ["generate", "model", "--out", "x", "--condition", "dose=high"],
        ["generate", "model", "--out", "x", "--condition", "dose=1abc"],
    ],
)
def test_wrong_arguments_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    assert "usage: scldm" in capsys.readouterr().err


def test_conditions():
    args = parse(
        *("generate", "model", "--out", "x", "--condition", "cell_type=1", "dose=0.5"),
        *("--condition", "perturbation=A+B", "batch=a=b"),
    )
    assert args.condition == [
        ("cell_type", "1"),
        ("dose", 0.5),
        ("perturbation", "A+B"),
        ("batch", "a=b"),
    ]
    args = parse(*("generate", "model", "--out", "x", "--condition", "dose=.5+10."))
    assert args.condition == [("dose", ".5+10.")]


def test_train_hands_on_what_was_given_and_no_more(asked, files, tmp_path):
    out = tmp_path / "model"
    keys = ["--cell-type-key", "cell_type", "--categorical-covariate-keys", "phase", "louvain"]
    options = ["--max-steps", "7", "--gene-likelihood", "zinb"]
    assert cli.main(["train", files["train"], "--out", str(out), *keys, *options]) == 0
    covariates = {"categorical_covariate_keys": ["phase", "louvain"]}
    assert asked == [
        ("setup", {"cell_type_key": "cell_type", **covariates}),
        ("init", {"gene_likelihood": "zinb"}),
        ("train", {"max_steps": 7}),
        ("save", str(out), True),
    ]


def test_train_does_not_write_over_a_model_unasked(asked, files, tmp_path, capsys):
    argv = ["train", files["train"], "--out", str(tmp_path)]
    assert cli.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert not asked
    assert cli.main([*argv, "--overwrite"]) == 0


def test_generate_hands_on_what_was_given_and_no_more(asked, tmp_path):
    argv = ["generate", str(tmp_path), "--n-cells", "5", "--out", str(tmp_path / "new.h5ad")]
    given = ["--seed", "3", "--steps", "4", "--guidance-scale", "2"]
    given += ["--condition", "cell_type=B", "batch=1"]
    assert cli.main([*argv, *given]) == 0
    assert asked[0] == ("load", str(tmp_path), False)
    expected = {"seed": 3, "steps": 4, "guidance_scale": 2.0, "cell_type": "B"}
    expected["batch"] = 1  # a category that is a number
    assert asked[-1] == ("generate", 5, expected)
    assert ad.read_h5ad(tmp_path / "new.h5ad").n_obs == 5


def test_evaluate_prints_and_writes_the_table(files, tmp_path, capsys):
    out, figure = tmp_path / "new" / "table.csv", tmp_path / "figure.png"
    argv = ["evaluate", files["real"], files["new"], "--real-train", files["train"]]
    options = ["--groupby", "cell_type", "--n-pcs", "10", "--out", str(out)]
    page = tmp_path / "report.html"
    options += ["--figure", str(figure), "--report", str(page)]
    assert cli.main([*argv, *options]) == 0
    table = pd.read_csv(out, keep_default_na=True).fillna({"note": ""})
    expected = scldm.metrics.evaluate(
        *(ad.read_h5ad(files[name]) for name in ("real", "new", "train")), "cell_type", n_pcs=10
    )
    pd.testing.assert_frame_equal(table, expected)
    printed = capsys.readouterr().out
    w2 = scldm.metrics.side_by_side(expected).loc["w2"]
    assert "floor" in printed and f"{w2['generated']:.3f}" in printed
    assert figure.stat().st_size > 10_000
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "{real}", "none.h5ad"], "`none.h5ad` does not exist"),
        (["evaluate", "{real}", "{new}", "--groupby", "kind"], "`groupby='kind'` is not a column"),
        (["evaluate", "{real}", __file__], "scldm: error"),
        (["generate", "nowhere", "--out", "x.h5ad"], "`nowhere` does not exist"),
        (["generate", "nowhere", "--out", "x", "--condition", "dose=1", "dose=2"], "twice"),
        (["train", "none.h5ad", "--out", "nowhere"], "`none.h5ad` does not exist"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(files, argv, message, capsys):
    assert cli.main([text.format(**files) for text in argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error


def test_traceback_on_request():
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "evaluate", "none.h5ad", "none.h5ad"])


def test_a_key_error_reads_like_its_message():
    assert cli._one_line(KeyError("no `x`\n  here")) == "no `x` here"


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="broken"), cli._beside(path) as draft:
        draft.write_text("half")
        raise ValueError("broken")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with cli._beside(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_demo(tmp_path, capsys):
    out = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(out), "--seed", "1", *TINY]) == 0
    written = {
        "generated.h5ad",
        "metrics.csv",
        "metrics.preparation.json",
        "compare.png",
        "history.png",
        "model",
    }
    assert {path.name for path in out.iterdir()} == written
    new = ad.read_h5ad(out / "generated.h5ad")
    assert new.shape == (140, 765)
    # The generated cells are of the types of the test cells: a fifth of each type.
    counts, all_counts = (a.obs["cell_type"].value_counts() for a in (new, pbmc68k()))
    assert ((counts - all_counts / 5).abs() < 1).all()
    table = pd.read_csv(out / "metrics.csv").query("group == 'all'")
    assert set(table["source"]) == {"floor", "generated"}
    assert (table["n_cells"] == 140).all() and table["value"].notna().all()
    printed = capsys.readouterr().out
    for step in ("data", "train", "generate", "evaluate", "write"):
        assert any(line.startswith(step) and line.endswith(" s") for line in printed.splitlines())


def test_train_then_generate(files, tmp_path):
    model, out = tmp_path / "model", tmp_path / "new.h5ad"
    keys = ["--cell-type-key", "cell_type", "--continuous-covariate-keys", "full_library_size"]
    assert cli.main(["train", files["train"], "--out", str(model), *keys, *TINY]) == 0
    argv = ["generate", str(model), "--n-cells", "20", "--out", str(out), "--steps", "2"]
    assert cli.main([*argv, "--condition", "cell_type=Dendritic"]) == 0
    first = ad.read_h5ad(out)
    assert first.shape == (20, 100) and set(first.obs["cell_type"]) == {"Dendritic"}
    assert cli.main([*argv, "--condition", "cell_type=Dendritic"]) == 0
    assert (ad.read_h5ad(out).X != first.X).nnz == 0


def test_an_unknown_condition_is_one_line(files, tmp_path, capsys):
    model = tmp_path / "model"
    argv = ["train", files["train"], "--out", str(model), "--cell-type-key", "cell_type"]
    assert cli.main([*argv, *TINY]) == 0
    capsys.readouterr()
    out = tmp_path / "new.h5ad"
    argv = ["generate", str(model), "--out", str(out), "--condition", "cell_type=Martian"]
    assert cli.main(argv) == 2
    assert "Martian" in capsys.readouterr().err and not out.exists()
