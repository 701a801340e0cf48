"""Gene sets from files, and beside the genes of a data set."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scldm.data import add_gene_sets, read_gmt


@pytest.fixture
def adata():
    genes = [f"g{i}" for i in range(6)]
    return ad.AnnData(np.ones((3, 6), np.float32), var=pd.DataFrame(index=genes))


def test_a_gmt_file_is_read(tmp_path):
    file = tmp_path / "sets.gmt"
    file.write_text("A\thttp://a\tg0\tg1\tg0\t\n\nB set\t\tg2\r\n")
    assert read_gmt(file) == {"A": ["g0", "g1"], "B set": ["g2"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A\td\tg0\nB\td\n", "Line 2 of .* is not a gene set.*'B"),
        ("A g0 g1\n", "Line 1 of .* with tabs between them"),
        ("\td\tg0\n", "Line 1"),
        ("A\td\tg0\nA\td\tg1\n", "Line 2 of .* has the set 'A' again"),
        ("\n", "has no gene sets"),
    ],
)
def test_what_is_not_a_gmt_file(tmp_path, text, words):
    file = tmp_path / "sets.gmt"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_gmt(file)


def test_sets_are_written_beside_the_genes(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_gene_sets(adata, {"A": ("g1", "g0"), "B": {"g5"}}, key="pathways")
    table = adata.varm["pathways"]
    assert list(table.columns) == ["A", "B"]
    np.testing.assert_array_equal(table["A"], [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(table["B"], [0, 0, 0, 0, 0, 1])


def test_genes_that_are_not_there_are_told(adata):
    with pytest.warns(UserWarning, match="2 of 4 genes are not in `adata`: 'x', 'y'"):
        add_gene_sets(adata, {"A": ["g0", "x"], "B": ["g1", "y"]})
    assert adata.varm["gene_sets"].to_numpy().sum() == 2


def test_small_sets_are_left_out(adata):
    with pytest.warns(UserWarning, match="fewer than 2 genes .*: 'B'"):
        add_gene_sets(adata, {"A": ["g0", "g1"], "B": ["g1"]}, min_genes=2)
    assert list(adata.varm["gene_sets"]) == ["A"]
    with pytest.raises(ValueError, match="no set with 3 or more"), pytest.warns(UserWarning):
        add_gene_sets(adata, {"A": ["g0", "g1"]}, min_genes=3)


def test_a_set_without_genes_is_refused(adata):
    with pytest.raises(
        ValueError, match="no gene is in `adata`: 'B'.* has 'g0', 'g1', 'g2' and 3"
    ):
        add_gene_sets(adata, {"A": ["g0"], "B": ["ENSG0"]})
    assert "gene_sets" not in adata.varm


def test_wrong_types_and_repeated_genes(adata):
    for sets in ({"A": "g0"}, [["g0"]]):
        with pytest.raises(TypeError, match="must map names of sets"):
            add_gene_sets(adata, sets)
    adata.var_names = ["g0"] * 6
    with pytest.raises(ValueError, match="genes of the same name"):
        add_gene_sets(adata, {"A": ["g0"]})
