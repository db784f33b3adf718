"""Imports go one way: a folder of the package knows those below it, never those above."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "kdlab"

LAYERS = (
    ("core",),
    ("config", "networks", "tasks"),
    ("data", "models", "heads"),
    ("modes",),
    ("training",),
    ("run",),
    ("study",),
    ("reporting", "tools", "bench"),
    ("train", "sweep", "report", "store", "table", "api"),
    ("__init__",),
)
"""From the ground up. Folders of one layer do not know each other."""


def files(package: Path) -> dict[str, Path]:
    """Every module below a package, by its dotted name."""
    found = {".".join(file.relative_to(package.parent).with_suffix("").parts): file for file in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in found.items()}


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module
                      for a in node.names}  # fmt: skip
    return found & known.keys()


def room(name: str) -> str:
    """The folder that a module lies in; of a module at the root, its own name."""
    return (*name.split("."), "__init__")[1]


def wrong_ways(package: Path) -> list[str]:
    """Imports that run upwards or across, in words."""
    level = {folder: place for place, layer in enumerate(LAYERS) for folder in layer}
    known = files(package)
    found = []
    for name, file in known.items():
        for other in sorted(imports(file, known)):
            ours, theirs = room(name), room(other)
            if ours != theirs and level[theirs] >= level[ours]:
                way = "upwards" if level[theirs] > level[ours] else "across"
                found.append(f"{file.relative_to(package)} imports {known[other].relative_to(package)}: {way}, "
                             f"from the layer of {ours} to that of {theirs}")  # fmt: skip
    return found


def circles(package: Path) -> list[list[str]]:
    """Modules that import each other, in a ring or more."""
    known = files(package)
    left = {name: imports(file, known) - {name} for name, file in known.items()}
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    return [sorted(left)] if left else []


def test_every_import_goes_down():
    assert wrong_ways(PACKAGE) == []


def test_no_modules_import_each_other():
    assert circles(PACKAGE) == []


def test_every_folder_has_a_layer_and_the_root_holds_entry_points_alone():
    assert {room(name) for name in files(PACKAGE)} == {folder for layer in LAYERS for folder in layer}
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from kdlab.run.store import Store", "core/a.py imports run/store.py: upwards, from the layer of core to "),
        ("def f():\n    from kdlab.run import store", "core/a.py imports run/store.py: upwards"),
        ("import kdlab.run.store", "core/a.py imports run/store.py: upwards"),
    ],
)
def test_an_import_that_goes_up_is_named_with_both_files_and_layers(tmp_path, source, said):
    package = tmp_path / "kdlab"
    for file, text in (("core/a.py", source), ("run/store.py", ""), ("run/__init__.py", ""), ("__init__.py", "")):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    (found,) = wrong_ways(package)
    assert said in found


def test_a_circle_is_found(tmp_path):
    package = tmp_path / "kdlab"
    for file, text in (("core/a.py", "import kdlab.core.b"), ("core/b.py", "from kdlab.core import a")):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    assert circles(package) == [["kdlab.core.a", "kdlab.core.b"]]
