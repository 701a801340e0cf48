"""The package's plan, held against its sources: who imports whom, versions, docstrings."""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "scldm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

ROOT_MODULE = "scldm"
"""Stands for names taken from the package's ``__init__``, that is, from all rooms at once."""

ANNOTATED_DATA = frozenset({"anndata", "mudata", "muon", "scanpy"})
ROOMS = frozenset(
    {"baselines", "diffusion", "nn", "metrics", "module", "train", "model", "data", "pl", "cli"},
)


@dataclass(frozen=True)
class Rule:
    """What a room may import of the package, and what of the outside world it may not."""

    rooms: frozenset[str] = field(default_factory=frozenset)
    banned: frozenset[str] = field(default_factory=frozenset)


PURE = Rule(banned=ANNOTATED_DATA | {"scvi", "lightning"})
RULES = {
    "baselines": PURE,
    "diffusion": PURE,
    "nn": PURE,
    "metrics": Rule(banned=frozenset({"scvi", "lightning", "mudata", "muon"})),
    "data": Rule(banned=frozenset({"scvi", "lightning"})),
    "module": Rule(frozenset({"diffusion", "nn"}), ANNOTATED_DATA | {"scvi.data"}),
    "train": Rule(frozenset({"diffusion", "nn", "module"}), ANNOTATED_DATA | {"scvi.data"}),
    "model": Rule(frozenset({"baselines", "diffusion", "nn", "metrics", "module", "train"})),
    "pl": Rule(frozenset({"metrics", "data"})),
    "cli": Rule(ROOMS | {ROOT_MODULE}),
    "__init__": Rule(ROOMS),
}


@dataclass(frozen=True)
class Import:
    """One imported module or name, with its place in the sources."""

    path: Path
    line: int
    name: str

    @property
    def room(self) -> str | None:
        """The room it is from, or None where it is not from this package."""
        first, *rest = self.name.split(".")
        if first != "scldm":
            return None
        known = rest and (rest[0] in ROOMS or (PACKAGE / f"{rest[0]}.py").exists())
        return rest[0] if known else ROOT_MODULE

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line}: imports {self.name}"


def imports_in(source: str, path: Path) -> Iterator[Import]:
    """All imports of a file of the package, with relative ones made absolute.

    ``path`` is relative to the folder that holds the package.
    """
    package = list(path.parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(path, node.lineno, f"{base}.{alias.name}")


def room_of(path: Path) -> str:
    """The room of a file of the package: its folder, or its own name at the top."""
    inside = path.relative_to("scldm")
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def offences(found: Import, room: str) -> Iterator[str]:
    """Ways in which an import breaks the rule of the room that it stands in."""
    # Helpers at the top of the package serve every room, so they must be as pure as the purest.
    rule = PURE if room.startswith("_") and room != "__init__" else RULES[room]
    target = found.room
    if target is not None:
        if target != room and target not in rule.rooms and not target.startswith("_"):
            yield f"{found}, but `{room}` may use only {sorted(rule.rooms) or 'itself'}"
        return
    for banned in sorted(rule.banned):
        if f"{found.name}.".startswith(f"{banned}."):
            yield f"{found}, but `{room}` knows no {banned}"


def sources() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE.parent), path.read_text(encoding="utf-8")


def test_every_file_lies_in_a_known_room():
    strange = [
        f"{path.as_posix()}: no rule for `{room_of(path)}`"
        for path, _ in sources()
        if room_of(path) not in RULES and not room_of(path).startswith("_")
    ]
    assert not strange, "\n".join(strange)


@pytest.mark.parametrize("room", RULES)
def test_imports_go_one_way(room):
    files = [(path, source) for path, source in sources() if room_of(path) == room]
    assert files, f"`{room}` has no files: has it moved?"
    broken = [
        text
        for path, source in files
        for found in imports_in(source, path)
        for text in offences(found, room)
    ]
    assert not broken, "\n".join(broken)


def test_helpers_at_the_top_are_pure():
    broken = [
        text
        for path, source in sources()
        if room_of(path).startswith("_") and room_of(path) != "__init__"
        for found in imports_in(source, path)
        for text in offences(found, room_of(path))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        (
            "scldm/diffusion/_a.py",
            "import torch\nimport anndata as ad",
            "_a.py:2: imports anndata",
        ),
        ("scldm/nn/_a.py", "from scvi.module import VAE", "imports scvi.module.VAE"),
        ("scldm/nn/_a.py", "from ..model import SCLDM", "imports scldm.model.SCLDM"),
        ("scldm/nn/deep/_a.py", "from ... import model", "imports scldm.model"),
        ("scldm/module/__init__.py", "def f():\n    from ..pl import x", "__init__.py:2: imports"),
        ("scldm/module/_a.py", "from scvi.data import AnnDataManager", "knows no scvi.data"),
        ("scldm/metrics/_a.py", "import scldm", "imports scldm, but"),
        ("scldm/metrics/_a.py", "from scldm import SCLDM", "imports scldm.SCLDM, but"),
        ("scldm/model/_a.py", "if True:\n    import scldm.cli", "_a.py:2: imports scldm.cli"),
        ("scldm/_a.py", "from anndata import AnnData", "`_a` knows no anndata"),
    ],
)
def test_a_wrong_import_is_found(path, source, expected):
    path = Path(path)
    found = [text for i in imports_in(source, path) for text in offences(i, room_of(path))]
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("scldm/diffusion/_a.py", "import torch\nfrom ._schedules import Schedule"),
        ("scldm/diffusion/_a.py", "from . import _schedules\nimport scvi_like"),
        ("scldm/metrics/_a.py", "from anndata import AnnData"),
        ("scldm/module/_a.py", "from scvi import REGISTRY_KEYS\nfrom scldm.diffusion import DDIM"),
        ("scldm/model/_a.py", "from scvi.data import AnnDataManager\nfrom ..train import _plans"),
        ("scldm/cli.py", "import scldm\nfrom scldm import SCLDM"),
        ("scldm/__init__.py", "from . import pl\nfrom .model import SCLDM"),
    ],
)
def test_a_right_import_is_let_through(path, source):
    path = Path(path)
    assert not [text for i in imports_in(source, path) for text in offences(i, room_of(path))]


def test_what_is_imported_is_declared():
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    # what the package does without, saying so where it is asked for
    extras = [
        line for name in ("moscot", "tangram") for line in PROJECT["optional-dependencies"][name]
    ]
    lines = [*PROJECT["dependencies"], *extras]
    declared = {plain(re.match(r"[\w.-]+", line)[0]) for line in lines}
    # a package whose name is not that of its module, where it is not installed
    providers = {"tangram": ["tangram-sc"], **packages_distributions()}
    missing = [
        f"{found}, which pyproject.toml does not list"
        for path, source in sources()
        for found in imports_in(source, path)
        if found.room is None
        and (top := found.name.split(".")[0]) not in sys.stdlib_module_names
        and declared.isdisjoint(plain(name) for name in providers.get(top, [top]))
    ]
    assert not missing, "\n".join(missing)


def test_versions_agree():
    import scldm

    assert scldm.__version__ == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", changelog, flags=re.MULTILINE)
    assert PROJECT["version"] in headings


def undocumented(name: str, thing: object) -> Iterator[str]:
    """Public modules, classes, functions and methods from here on down without a docstring."""
    if isinstance(thing, ModuleType):
        if not thing.__doc__:
            yield name
        for inner in thing.__all__:
            yield from undocumented(f"{name}.{inner}", getattr(thing, inner))
    elif inspect.isclass(thing):
        if not thing.__doc__:
            yield name
        for inner, member in vars(thing).items():
            is_api = isinstance(member, classmethod | staticmethod | property)
            is_api = is_api or inspect.isfunction(member)
            # An overriding method may leave the docstring to the method it overrides.
            if is_api and not inner.startswith("_") and not inspect.getdoc(getattr(thing, inner)):
                yield f"{name}.{inner}"
    elif callable(thing) and not thing.__doc__:
        yield name


def test_public_names_have_docstrings():
    import scldm

    assert "SCLDM" in scldm.__all__
    assert not list(undocumented("scldm", scldm))
