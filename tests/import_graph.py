"""Which modules of the package import which, imports inside functions included and those for type checkers left out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx


def import_graph(package: Path) -> nx.DiGraph:
    """A graph of the modules under a package folder; a name that a package re-exports counts as its own module's."""
    modules = {_module(path, package.parent): ast.parse(path.read_text("utf-8")) for path in package.rglob("*.py")}
    packages = {_module(path, package.parent) for path in package.rglob("__init__.py")}
    exported = {
        f"{name}.{alias}": f"{source}.{own}"
        for name in packages
        for source, own, alias in _imported_names(modules[name], type_checking=True)
    }
    graph = nx.DiGraph()
    for name, tree in modules.items():
        for source, own, _ in _imported_names(tree, type_checking=False):
            target, met = f"{source}.{own}", set[str]()
            while target in exported and target not in met:  # a package may export a name of a module of that name
                met.add(target)
                target = exported[target]
            found = target if target in modules else target.rpartition(".")[0]
            if found in modules and found != name and found not in packages:
                graph.add_edge(name, found)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Groups of modules that import each other, in any number of steps."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1)


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_names(tree: ast.AST, type_checking: bool) -> Iterator[tuple[str, str, str]]:
    """Module, name and alias of each `from module import name`; of `import a.b`, a, b and b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not type_checking:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                source, _, name = alias.name.rpartition(".")
                yield source, name, name
        else:
            yield from _imported_names(node, type_checking)
