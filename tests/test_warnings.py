"""Where warnings point: at the line that called the package."""

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scldm import _warnings
from scldm.data import add_gene_sets


def function(package, name, body, **known):
    """A function as if it were of a package."""
    scope = {"__name__": f"{package}.module", **known}
    exec(f"def {name}():\n    {body}\n", scope)
    return scope[name]


def caught(call, *args, **kwargs):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call(*args, **kwargs)
    (warning,) = found
    return warning


def test_a_warning_points_at_the_users_line():
    told = function("scldm", "told", "warn('odd')", warn=_warnings.warn)
    passed = function("torch", "passed", "told()", told=told)
    asked = function("scldm", "asked", "passed()", passed=passed)
    for call in (told, asked):
        warning = caught(call)
        assert str(warning.message) == "odd" and Path(warning.filename) == Path(__file__)


def test_also_from_a_public_function():
    adata = ad.AnnData(np.zeros((2, 3)), var=pd.DataFrame(index=["A", "B", "C"]))
    warning = caught(add_gene_sets, adata, {"both": ["A", "B", "D"]}, min_genes=1)
    assert "'D'" in str(warning.message) and Path(warning.filename) == Path(__file__)
