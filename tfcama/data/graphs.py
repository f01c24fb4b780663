"""What a table's columns are to the target Y: its causes, its effects, or causes of its effects.

Deep CAMA's graph has A (parents: cause Y), X (children: caused by Y) and C (co-parents: cause X
besides Y). Given these, the Markov blanket, Y depends on no other column of the table, so other
columns are left out. Roles are declared by three lists, by a YAML file of them, or by a DAG file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx
import pydot
import yaml

from tfcama.errors import InputError, unknown_name, unreadable
from tfcama.types import CHILD, COPARENT, PARENT

_LISTS = ("parents", "coparents", "children", "categorical")
_DEFAULTS = ("node", "edge", "graph")  # DOT statements that set defaults; pydot lists them as nodes
# A DOT identifier, quoted or not, and the port after it.
_DOT_NAME = re.compile(r'(?s)("(?:\\.|[^"\\])*"|[^":]*)(:.*)?')
# What may hold "--" in a DOT file without being an edge: quoted names, comments and HTML labels.
_DOT_ASIDE = re.compile(r'(?s)"(?:\\.|[^"\\])*"|/\*.*?\*/|//[^\n]*|#[^\n]*|<(?:[^<>]|<[^<>]*>)*>')


@dataclasses.dataclass(frozen=True)
class Roles:
    """The columns that a model of Y reads, by role.

    Attributes:
      target: the column Y that is predicted.
      parents: causes of Y.
      coparents: other causes of Y's effects. One of them may also be a parent, but only a DAG says
        so: see from_dag.
      children: effects of Y.
      categorical: columns that are categories even if their values look like numbers.
      nodes: every node of the DAG the roles came from; () if they were listed.

    Raises:
      InputError: no target, no feature, a target among the features, a column that is named twice
        in a list or is a child besides another role, or a categorical column that is none of these.
    """

    target: str
    parents: tuple[str, ...] = ()
    coparents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.target:
            raise InputError("target: the name of the column to predict is needed, '' was given.")
        for place in _LISTS:
            _check_list(place, getattr(self, place))
        for place in _LISTS[:3]:
            if self.target in getattr(self, place):
                raise InputError(
                    f"column '{self.target}' is the target and named in {place}; "
                    "the target cannot be one of its own features."
                )
        if not self.columns:
            raise InputError(
                f"target '{self.target}' has no parents, co-parents or children; "
                "at least one feature column is needed."
            )
        _refuse_both("parents", self.parents, "children", self.children)
        _refuse_both("coparents", self.coparents, "children", self.children)
        known = {*self.columns, *self.nodes, self.target}
        for name in self.categorical:
            if name not in known:
                raise unknown_name("categorical column", name, known)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every feature column once: parents, then co-parents, then children."""
        return tuple(dict.fromkeys((*self.parents, *self.coparents, *self.children)))

    def roles_of(self, name: str) -> tuple[str, ...]:
        """The roles of a column, of tfcama.types.ROLES; () if it has none."""
        members = {PARENT: self.parents, COPARENT: self.coparents, CHILD: self.children}
        return tuple(role for role, names in members.items() if name in names)


def from_lists(
    target: str,
    parents: Iterable[str] = (),
    coparents: Iterable[str] = (),
    children: Iterable[str] = (),
    categorical: Iterable[str] = (),
) -> Roles:
    """Roles that the user lists.

    Raises:
      InputError: as Roles says, or a column is a parent and a co-parent.
    """
    roles = Roles(
        target,
        _names("parents", parents),
        _names("coparents", coparents),
        _names("children", children),
        _names("categorical", categorical),
    )
    _refuse_both("parents", roles.parents, "coparents", roles.coparents)
    return roles


def from_yaml(path: str | os.PathLike[str]) -> Roles:
    """Roles from a YAML file: `target` is a name; the other keys are lists of names.

    The other keys are parents, coparents, children and categorical; each may be left out.

    Raises:
      InputError: the file is missing, is no YAML mapping, has an unknown key or one key twice, or
        as from_lists.
    """
    values = _read_mapping(path)
    for key in values:
        if key not in ("target", *_LISTS):
            raise unknown_name(f"key of {path}", str(key), ("target", *_LISTS))
    target = values.get("target")
    if not isinstance(target, str):
        raise InputError(f"{path}: target: a column's name (text) is needed, {target!r} was given.")
    lists = {place: values.get(place) for place in _LISTS}
    try:
        return from_lists(target, **{k: () if v is None else v for k, v in lists.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def from_dag(path: str | os.PathLike[str], target: str, categorical: Iterable[str] = ()) -> Roles:
    """Roles from a causal graph: the Markov blanket of the target.

    Parents are the target's causes, children its effects, and co-parents the other causes of its
    children that are not children themselves. A cause of the target that also causes one of its
    children, a confounder, is a parent and a co-parent. Each list is in alphabetical order, so that
    the order of a file's lines does not matter.

    Args:
      path: of a DOT file (*.dot, *.gv), or else of a text file with `cause effect` on each line and
        comments after `#`.
      target: the node that is predicted.
      categorical: nodes that are categories even if their values look like numbers.

    Raises:
      InputError: the file is missing, malformed, undirected, without an edge or with a cycle, or
        the target is none of its nodes.
    """
    text = _read(path)
    extension = os.path.splitext(path)[1].lower()
    graph = _read_dot(path, text) if extension in (".dot", ".gv") else _read_edges(path, text)
    if not graph.edges:
        raise InputError(f"{path}: no edge was found; at least one cause and effect are needed.")
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [cause for cause, _ in nx.find_cycle(graph)]
        raise InputError(
            f"{path}: {' -> '.join([*cycle, cycle[0]])} is a cycle; a causal graph has none."
        )
    if target not in graph:
        raise unknown_name("target", target, graph.nodes)
    children = set(graph.successors(target))
    causes = {cause for child in children for cause in graph.predecessors(child)}
    return Roles(
        target,
        parents=tuple(sorted(graph.predecessors(target))),
        coparents=tuple(sorted(causes - children - {target})),
        children=tuple(sorted(children)),
        categorical=_names("categorical", categorical),
        nodes=tuple(sorted(graph.nodes)),
    )


def _names(place: str, given: Any) -> tuple[str, ...]:
    """A list of names as a tuple."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{place}: a list of column names is needed, {given!r} was given.")
    return tuple(given)


def _check_list(place: str, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(f"{place}: {name!r} was given; every entry must be a column's name.")
        if name in names[:i]:
            raise InputError(f"column '{name}' is named twice in {place}; name it once.")


def _refuse_both(place: str, names: tuple[str, ...], other: str, others: tuple[str, ...]) -> None:
    for name in names:
        if name in others:
            raise InputError(
                f"column '{name}' is named in both {place} and {other}; name it in one list, or, "
                "if it causes both the target and its effects, declare it by a DAG file (--dag)."
            )


def _read(path: str | os.PathLike[str]) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: it is no UTF-8 text.") from error


def _read_mapping(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """A YAML file's keys and values; safe_load alone would take the last of a key's two values."""
    text = _read(path)
    try:
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # 2020-13-45 is no date
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{path} is no valid YAML{where}.") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: {type(values).__name__} was given; "
            f"a YAML mapping with keys target, {', '.join(_LISTS)} is needed."
        )
    keys = [key.value for key, _ in node.value]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise InputError(f"{path}: the key '{key}' is given twice; give it once.")
    return values


def _read_edges(path: str | os.PathLike[str], text: str) -> nx.DiGraph:
    graph = nx.DiGraph()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words and len(words) != 2:
            raise InputError(
                f"{path}, line {number}: '{line.strip()}' was given; two words, a cause and its "
                "effect, are needed (names with spaces need a .dot file)."
            )
        if words:
            graph.add_edge(*words)
    return graph


def _read_dot(path: str | os.PathLike[str], text: str) -> nx.DiGraph:
    # pydot prints what it cannot parse, and its use of pyparsing raises deprecation warnings.
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graphs = pydot.graph_from_dot_data(text)
    if not graphs:
        found = re.search(r"line:\d+", printed.getvalue())
        where = f" at {found.group().replace(':', ' ')}" if found else ""
        raise InputError(f"{path} is no valid DOT file{where}; 'digraph {{ a -> b }}' is one.")
    if len(graphs) > 1:
        raise InputError(f"{path} holds {len(graphs)} graphs; one is needed.")
    if graphs[0].get_type() != "digraph" or "--" in _DOT_ASIDE.sub("", text):
        raise InputError(f"{path} is an undirected graph; write 'digraph {{ cause -> effect }}'.")
    nodes, edges = _dot_parts(path, graphs[0].obj_dict)
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(edges)
    return graph


def _dot_parts(
    path: str | os.PathLike[str], part: Mapping[str, Any]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Nodes and edges of a graph as pydot holds it; networkx's reader leaves out its subgraphs."""
    nodes = [_dot_name(name) for name in part["nodes"] if name not in (*_DEFAULTS, r'"\n"')]
    edges: list[tuple[str, str]] = []
    _check_arrows(path, "the default edge", part["nodes"].get("edge", ()))
    for ends, drawn in part["edges"].items():
        # An end is a name, or a subgraph that stands for all its nodes: a -> {b; c}.
        sides = []
        for end in ends:
            inside = ([_dot_name(end)], []) if isinstance(end, str) else _dot_parts(path, end)
            sides.append(inside[0])
            edges += inside[1]
        nodes += [*sides[0], *sides[1]]
        edges += itertools.product(sides[0], sides[1])
        _check_arrows(path, " -> ".join(", ".join(side) for side in sides), drawn)
    for subgraph in itertools.chain(*part["subgraphs"].values()):
        inner_nodes, inner_edges = _dot_parts(path, subgraph)
        nodes += inner_nodes
        edges += inner_edges
    return list(dict.fromkeys(nodes)), edges


def _check_arrows(path: str | os.PathLike[str], edge: str, drawn: Any) -> None:
    """Refuses an arrow that is not drawn from cause to effect: which way it means is unclear."""
    for one in drawn:
        direction = str(one["attributes"].get("dir", "forward")).strip('"')
        if direction != "forward":
            raise InputError(
                f"{path}: {edge} has dir={direction}; "
                "write every edge as cause -> effect, without dir."
            )


def _dot_name(raw: str) -> str:
    """A node's name without quotes and port."""
    found = _DOT_NAME.fullmatch(raw)
    name = found.group(1) if found else raw
    quoted = len(name) > 1 and name.startswith('"') and name.endswith('"')
    return name[1:-1].replace('\\"', '"') if quoted else name
