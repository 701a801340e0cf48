import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scldm.metrics import evaluate
from scldm.pl import report
from scldm.pl._table import judged

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """What a page holds; fails where a tag is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.headings = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += f" {data}"
        if self.open and self.open[-1] in ("h1", "h2", "h3", "title"):
            self.headings.append(data)

    @property
    def pictures(self):
        return {attrs["alt"]: attrs["src"] for tag, attrs in self.tags if tag == "img"}


@pytest.fixture(scope="module")
def curves():
    frame = pd.DataFrame({"elbo_train": [3.0, 2.0, 1.0]}, index=pd.Index(range(3), name="epoch"))
    return SimpleNamespace(history={"elbo_train": frame})


@pytest.fixture(scope="module")
def page(samples, scored, curves, tmp_path_factory):
    table = scored(groups=("all", "CD19+ B"))
    table.attrs["preprocessing"] = {"n_pcs": 30, "target_sum": 642.5}
    options = {
        "model": curves,
        "table": table,
        "path": tmp_path_factory.mktemp("page") / "page.html",
    }
    return Page(report(*samples, groupby="cell_type", **options).read_text(encoding="utf-8"))


def test_all_parts_are_there(page):
    assert page.headings == [
        "Generated cells", "Generated cells", "Scores", "Scores by type", "generated", "Cells",
        "Genes", "Training", "Preparation", "Versions",
    ]  # fmt: skip
    assert list(page.pictures) == [
        "Scores against the floor", "Map of cells", "Mean and variance", "Zeros", "Library size",
        "Genes of types", "Correlation of genes", "Training curves",
    ]  # fmt: skip
    assert "90 real cells, 110 generated cells, 765 genes" in page.text
    assert re.search(r"n pcs\s+30\s+target sum\s+642", page.text)


def test_pictures_are_in_the_page_and_nothing_is_outside(page):
    for source in page.pictures.values():
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert b64decode(data).startswith(b"\x89PNG")
    names = {name for _, attrs in page.tags for name in attrs}
    assert not names & {"href", "srcset", "onclick", "onload", "data", "action"}
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}


def test_the_style_refers_to_nothing_outside(samples, scored, tmp_path):
    text = report(*samples, table=scored(), path=tmp_path / "page.html").read_text()
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in text


def test_scores_stand_beside_their_floor(page):
    # w2 is 12 against a floor of 11 ± 0.25
    assert re.search(
        r"2-Wasserstein distance\s+w2\s+▼ worse\s+12.0\s+\[11.8, 12.2\]\s+11.0\s+\[10.8, 11.2\]",
        page.text,
    )
    # recall is above its floor, and higher is better
    assert re.search(r"Recall\s+recall\s+▲ beyond\s+22.0", page.text)
    assert re.search(
        r"of 4 scores, 0 are as those of real cells, 3 worse, 1 beyond them", page.text
    )
    assert re.search(r"CD19\+ B\s+▼ worse\s+2.00\s+\[1.75, 2.25\]\s+floor 1.00", page.text)


def test_what_does_not_apply_is_left_out(samples, scored, tmp_path):
    table = scored()
    untrained = SimpleNamespace(history=None)
    path = report(*samples, model=untrained, table=table, path=tmp_path / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.headings[2:] == ["Scores", "Cells", "Genes", "Versions"]
    assert "Genes of types" not in page.pictures
    alike = [cells[cells.obs["cell_type"] == "Dendritic"].copy() for cells in samples]
    path = report(*alike, groupby="cell_type", table=table, path=tmp_path / "page.html")
    assert "Genes of types" not in Page(path.read_text(encoding="utf-8")).pictures


def test_text_of_the_user_is_no_markup(samples, tmp_path, scored):
    evil = '<b>bold</b> & "quoted" $title'
    real, new = (cells.copy() for cells in samples)
    for cells in (real, new):
        kinds = cells.obs["cell_type"].astype(str).replace("CD19+ B", evil)
        cells.obs["kind"] = kinds.to_numpy()
    table = scored((evil, "plain"), ("all", evil))
    table["metric"] = table["metric"].replace("w2", "<b>w2</b>")
    lost = (table["group"] == evil) & (table["source"] == "plain")
    table.loc[lost, ["value", "low", "high"]] = np.nan
    table.loc[lost, "note"] = "too <b>few</b> cells"
    table.attrs["preprocessing"] = {"<b>key</b>": "<b>value</b>"}
    path = report(real, new, groupby="kind", title=evil, table=table, path=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "<b>bold" not in text and "<b>w2" not in text and "<b>key" not in text
    assert "<b>few" not in text and "<b>value" not in text
    page = Page(text)
    # title, heading, column, summary, group, and the heading of its table
    assert page.text.count("<b>bold</b>") >= 6
    assert page.headings[:2] == [evil, evil]
    assert "too <b>few</b> cells" in page.text


def test_sets_by_number_of_steps(samples, scored, tmp_path):
    path = report(*samples, table=scored(("3", "10")), path=tmp_path / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert "Scores by steps" in page.pictures
    assert re.search(r"Score\s+3\s+10\s+Floor\s+Meaning", page.text)


def test_the_scores_are_computed_where_none_are_given(samples, tmp_path):
    real, new = samples
    options = {"n_pcs": 5, "seed": 3, "n_jobs": 1}
    path = report(real, new, groupby="cell_type", path=tmp_path / "page.html", **options)
    page = Page(path.read_text(encoding="utf-8"))
    table = evaluate(real, new, groupby="cell_type", **options)
    w2 = table[(table["metric"] == "w2") & (table["group"] == "all")].set_index("source")["value"]
    assert f"{w2['generated']:#.3g}" in page.text and f"{w2['floor']:#.3g}" in page.text
    assert all(name in page.text for name in table["metric"].unique())


def test_every_metric_has_a_name_and_a_meaning(samples):
    from scldm.pl._table import READINGS

    labels = samples[1].obs["cell_type"]
    real, new = samples[0], samples[1][labels.isin(samples[0].obs["cell_type"])]
    table = evaluate(real, new, new.copy(), "cell_type", n_pcs=5, n_bootstrap=0, n_jobs=1)
    assert set(table["metric"]) == set(READINGS)


def test_a_failed_write_leaves_what_was_there(samples, scored, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("before")
    write = Path.write_text

    def half(self, text, **options):
        write(self, text[: len(text) // 2], **options)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="disk full"):
        report(*samples, table=scored(), path=path)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "before"


def test_the_path_comes_back_and_figures_are_closed(samples, scored, tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    monkeypatch.chdir(tmp_path)
    assert report(*samples, table=scored()) == Path("report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert not plt.get_fignums()


def test_errors_before_any_computing(samples, scored, tmp_path, monkeypatch):
    real, new = samples
    monkeypatch.setattr("scldm.pl._report.evaluate", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(
        FileNotFoundError, match=r"`path='.*page.html'`: the folder `.*` is missing"
    ):
        report(real, new, path=tmp_path / "none" / "page.html")
    with pytest.raises(ValueError, match="`groupby='kind'` is not a column"):
        report(real, new, groupby="kind", path=tmp_path / "page.html")
    with pytest.raises(ValueError, match="The genes of `generated`"):
        report(real, new[:, 1:], path=tmp_path / "page.html")
    with pytest.raises(ValueError, match="`table` has no column"):
        report(real, new, table=pd.DataFrame({"a": [1]}), path=tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"`genes` has \['XYZ'\]"):
        report(real, new, groupby="cell_type", genes=["XYZ"], path=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("lower", 1.0, "beyond"), ("lower", 2.0, "within"), ("lower", 3.0, "worse"),
        ("higher", 1.0, "worse"), ("higher", 3.0, "beyond"),
        # the interval of the gap ends at zero where the values are 0.9 apart
        ("floor", 1.0, "worse"), ("floor", 1.1, "within"), ("floor", 3.0, "worse"),
        ("lower", np.nan, ""),
    ],
)  # fmt: skip
def test_verdicts(better, value, verdict):
    rows = [("floor", 2.0, 1.5, 2.5), ("new", value, value - 0.4, value + 0.4)]
    table = pd.DataFrame(rows, columns=["source", "value", "low", "high"])
    table = table.assign(group="all", metric="w2", better=better, gap=table["value"] - 2)
    table["gap_low"], table["gap_high"] = table["gap"] - 0.9, table["gap"] + 0.9
    assert judged(table)["verdict"].tolist() == [verdict]
