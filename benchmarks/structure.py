"""Structure of packages, in numbers over their syntax trees: size, imports, names and docstrings.

Run: python benchmarks/structure.py deepzero_sim PATH_OF_ANOTHER_PACKAGE ...
Prints a table of Markdown, a column a package; `--json` prints the numbers. Sizes of files are of those that hold code: an
`__init__.py`, which lists names, is left out. Lines of code are neither blank nor comments nor docstrings.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def words(text: str) -> frozenset[str]:
    """Split a text into its words."""
    return frozenset(text.split())


#: Words that end like a participle but are none, in names of functions and at the beginning of entries.
NO_PARTICIPLES = words(
    """
    bed bleed breed deed embed exceed feed need proceed red reed seed shed shred sled speed succeed weed zed hundred
    indeed bring cling fling king ping ring sing sling spring sting string swing thing wing wring during anything
    everything nothing something ceiling evening morning boolean
    """
)

#: Participles that do not end in -ed or -ing.
IRREGULAR = words(
    """
    become begun bent born bought bound broken brought built caught chosen dealt done drawn driven fallen felt forgotten
    found frozen given gone grown heard held hidden kept known laid learnt led left lent lost made meant met paid said
    seen sent shown shut sold spent split spoken stood struck sunk taken taught thought thrown told torn understood woken
    worn written
    """
)

#: First words of a docstring that leave its head out.
HEADLESS = frozenset({"what", "whether", "of", "how"})

#: First words of an entry of `Args` that are no part of a noun phrase.
NOT_NOMINAL = words(
    """
    of as whether how where what when who whom whose which that if with without from by in on at for to into is are was
    were be been may must can will shall has have had does do it them they theirs likewise see called used given
    """
)


def modules(package: Path) -> dict[str, Path]:
    """Find the modules of a package by dotted name, the package itself under its own name."""
    files = (file for file in sorted(package.rglob("*.py")) if "__pycache__" not in file.parts)
    return {
        ".".join((package.name, *file.relative_to(package).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in files
    }


def imports_of(name: str, tree: ast.Module, known: dict[str, Path]) -> set[str]:
    """Find the modules of the package that a module imports, except those for annotations only."""
    package = name if known[name].name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in without_annotations_only(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*above, base) if base else above)
            if base in known:  # otherwise it lies outside, such as a folder that is installed into the package
                found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for dotted in found if (module := longest_known(dotted, known))} - {name}


def without_annotations_only(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk a tree, in no order, except what is under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def longest_known(dotted: str, known: dict[str, Path]) -> str:
    """Find the module that a dotted name lies in; empty if it is none of the package's."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return dotted


def longest_chain(graph: dict[str, set[str]]) -> int:
    """Count the files of the longest chain of imports; files of a cycle count once each."""
    groups = strongly_connected(graph)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    between = {n: {group_of[i] for name in group for i in graph[name]} - {n} for n, group in enumerate(groups)}
    length: dict[int, int] = {}
    for number in TopologicalSorter(between).static_order():
        length[number] = len(groups[number]) + max((length[below] for below in between[number]), default=0)
    return max(length.values(), default=0)


def strongly_connected(graph: dict[str, set[str]]) -> list[list[str]]:
    """Group modules that import each other, by what each reaches: packages are small."""
    reach = {name: reachable(graph, name) for name in graph}
    groups: dict[str, list[str]] = {}
    for name in graph:
        groups.setdefault(min(other for other in reach[name] | {name} if name in reach[other] | {other}), []).append(name)
    return list(groups.values())


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Find the modules that importing one imports, directly or not."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def has_cycles(graph: dict[str, set[str]]) -> bool:
    """Tell whether modules import each other in a circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


def is_participle(word: str) -> bool:
    """Tell a participle by its form, such as `joined` or `building`."""
    if word in NO_PARTICIPLES:
        return False
    return word in IRREGULAR or (len(word) > 4 and word.endswith(("ed", "ing")))


def has_participle_name(name: str) -> bool:
    """Tell whether a function's name begins with a participle: `joined`, `kept_in_worker`."""
    return is_participle(name.strip("_").split("_")[0])


def first_word(text: str) -> str:
    """Find the first word of a text, in lower case; empty where it begins with anything else."""
    word = re.match(r"[A-Za-z][A-Za-z'-]*", text.strip())
    return word[0].lower() if word else ""


def entries(docstring: str) -> list[str]:
    """List the texts of the entries of `Args` and its kin, in the style of Google or as lists of Markdown."""
    found: list[str] = []
    section = re.compile(r"^(\s*)(?:\*\*)?(Args|Attributes|Arguments|Parameters)(?::?\*\*)?:\s*$")
    lines, inside, level = docstring.expandtabs().splitlines(), False, 0
    for number, line in enumerate(lines):
        if section.match(line):
            inside, level = True, -1
        elif inside and line.strip():
            indent = len(line) - len(line.lstrip())
            entry = re.match(r"\s*(?:[-*]\s+)?`*\*{0,2}[A-Za-z_][\w, *`\.]*`*\s*(?:\([^)]*\))?:\s*(.*)", line)
            level = indent if level < 0 else level
            if indent < level or (indent == level and not entry):
                inside = False
            elif indent == level and entry:
                text = entry[1] or (lines[number + 1] if number + 1 < len(lines) else "")
                found.append(text.strip())
    return found


def lacks_noun(entry: str) -> bool:
    """Tell whether an entry does not begin with a noun phrase, as far as its first word shows."""
    word = first_word(entry)
    return (
        not word
        or word in NOT_NOMINAL
        or (is_participle(word) and bool(re.match(r"\w+(?:\s+(?:by|in|to|as|with|at|for|if|when)\b|[.,;:]|$)", entry)))
    )


def share(part: int, whole: int) -> float:
    """Compute a percentage, with one digit."""
    return round(100 * part / whole, 1) if whole else 0.0


def is_code(line: str) -> bool:
    """Tell a line of code from blank ones and comments."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def measure(package: Path) -> dict[str, object]:
    """Compute all numbers of one package."""
    files = modules(package)
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    graph = {name: imports_of(name, tree, files) for name, tree in trees.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    documented = [
        node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)
    ]
    docstrings = [text for node in documented if (text := ast.get_docstring(node))]
    arguments = [entry for text in docstrings for entry in entries(text)]
    lines = {name: text.splitlines() for name, text in texts.items()}
    total = sum(map(len, lines.values()))
    code = sum(is_code(line) for of_one in lines.values() for line in of_one) - sum(map(lines_of_docstring, documented))
    sizes = [len(of_one) for name, of_one in lines.items() if files[name].name != "__init__.py"]
    raising = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes if isinstance(node, ast.Raise))
    lengths = [length_of_body(node) for node in functions]
    own = [node for node in functions if not node.name.startswith("__")]
    root = [file for file in package.iterdir() if file.name != "__pycache__" and not file.name.startswith(".")]
    return {
        "entries in the root": len(root),
        "modules in the root": sum(file.suffix == ".py" for file in root),
        "files": len(files),
        "lines": total,
        "lines a file, median": statistics.median(sizes),
        "files under 60 lines, %": share(sum(size < 60 for size in sizes), len(sizes)),
        "whole-line comments, %": share(
            sum(line.lstrip().startswith("#") for of_one in lines.values() for line in of_one), total
        ),
        "longest import chain, files": longest_chain(graph),
        "import cycles": "yes" if has_cycles(graph) else "no",
        "lines in raise, % of code": share(raising, code),
        "function length, median": statistics.median(lengths),
        "function length, p90": sorted(lengths)[int(0.9 * len(lengths))],
        "functions named by a participle, %": share(sum(has_participle_name(node.name) for node in own), len(own)),
        "docstrings that open with What, Whether, Of, How, %": share(
            sum(first_word(text) in HEADLESS for text in docstrings), len(docstrings)
        ),
        "Args entries without a noun, %": share(sum(map(lacks_noun, arguments)), len(arguments)),
    }


def lines_of_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) -> int:
    """Count the lines of a docstring that are not blank."""
    if ast.get_docstring(node, clean=False) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1 - (ast.get_docstring(node) or "").count("\n\n")


def length_of_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return ((body[-1].end_lineno or 0) - body[0].lineno + 1) if body else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {str(path): measure(path) for path in given.packages}
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print("| |", " | ".join(found), "|")
    print("| --- |", " | ".join("---" for _ in found), "|")
    for name in next(iter(found.values())):
        print(f"| {name} |", " | ".join(str(numbers[name]) for numbers in found.values()), "|")


if __name__ == "__main__":
    main()
