import numpy as np
import pytest

from tfcama.data import graphs
from tfcama.data.graphs import Roles
from tfcama.errors import InputError
from tfcama.types import CHILD, COPARENT, PARENT

# Drawn by hand: a1 and z cause y; z also causes x2; y causes x1 and x2; x1 also causes x2; c1 and
# c2 cause x1; g is a grandchild, p a grandparent, s a sibling (another effect of a1).
EDGES = """
p a1      # a grandparent
a1 y
z y
z x2      # z confounds y and x2
y x1
y x2
x1 x2     # one effect causes another: it stays a child
c1 x1
c2 x1

x1 g
a1 s
"""
DOT = r"""
// the same graph
digraph "my graph" {
  node [shape=box]; edge [color=red]; rankdir=LR;
  p -> a1 -> y -> {x1; "x2"};
  subgraph cluster_causes { z -> y; z -> x2 [label="con--found", xlabel=<<b>--</b>>]; }
  {c1 c2} -> x1:port -> x2;
  a1 -> s; x1 -> g;
}

"""
BLANKET = {
    "target": "y",
    "parents": ("a1", "z"),
    "coparents": ("c1", "c2", "z"),
    "children": ("x1", "x2"),
    "nodes": ("a1", "c1", "c2", "g", "p", "s", "x1", "x2", "y", "z"),
}


def write(tmp_path, text, name="roles.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_listed_roles_keep_their_order():
    roles = graphs.from_lists("y", ["b", "a"], ["d"], ["c"], categorical=["d", "y"])
    assert roles.columns == ("b", "a", "d", "c")
    assert [roles.roles_of(name) for name in roles.columns] == [
        (PARENT,),
        (PARENT,),
        (COPARENT,),
        (CHILD,),
    ]
    assert roles.roles_of("y") == roles.roles_of("elsewhere") == ()
    assert roles.nodes == ()


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"target": "", "parents": ["a"]}, r"target: the name of the column .* '' was given"),
        ({}, r"target 'y' has no parents, co-parents or children"),
        ({"parents": ["a", "y"]}, r"column 'y' is the target and named in parents"),
        ({"children": ["y"]}, r"column 'y' is the target and named in children"),
        ({"parents": ["a", "b", "a"]}, r"column 'a' is named twice in parents"),
        (
            {"parents": ["a"], "coparents": ["a"]},
            r"'a' is named in both parents and coparents; .*causes both the target and its "
            r"effects, declare it by a DAG file \(--dag\)",
        ),
        ({"parents": ["a"], "children": ["b", "a"]}, r"'a' is named in both parents and children"),
        ({"coparents": ["a"], "children": ["a"]}, r"'a' is named in both coparents and children"),
        ({"parents": ["age"], "categorical": ["agee"]}, r"categorical .*did you mean 'age'"),
        ({"parents": ["a"], "categorical": ["a", "a"]}, r"'a' is named twice in categorical"),
        ({"parents": "age"}, r"parents: a list of column names is needed, 'age' was given"),
        ({"parents": [3]}, r"parents: 3 was given; every entry must be a column's name"),
    ],
)
def test_contradictory_lists_are_refused(lists, sentence):
    with pytest.raises(InputError, match=sentence):
        graphs.from_lists(**{"target": "y", **lists})


def test_yaml_says_what_lists_say(tmp_path):
    path = write(tmp_path, "target: y\nparents: [a]\nchildren:\n- x\ncoparents:\ncategorical: [x]")
    assert graphs.from_yaml(path) == Roles("y", ("a",), (), ("x",), ("x",))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("target: y\nparent: [a]", r"unknown key of .*roles.yaml 'parent'; did you mean 'parents'"),
        ("- y\n- a", r"roles.yaml: list was given; a YAML mapping"),
        ("", r"NoneType was given; a YAML mapping"),
        ("target: y\nparents: [a", r"roles.yaml is no valid YAML at line 2"),
        ("target: y\nparents: [2020-13-45]", r"roles.yaml is no valid YAML"),
        ("parents: [a]", r"target: a column's name \(text\) is needed, None was given"),
        ("target: yes\nparents: [a]", r"target: a column's name .* True was given"),
        ("target: y\nparents: a", r"roles.yaml: parents: a list .* 'a' was given"),
        ("target: y\nparents: 3", r"parents: a list .* 3 was given"),
        ("target: y\nparents: [no]", r"parents: False was given"),
        ("target: y\nparents: [a]\nparents: [b]", r"the key 'parents' is given twice"),
        ("target: y\nparents: [a]\nchildren: [a]", r"roles.yaml: column 'a' is named in both"),
    ],
)
def test_a_bad_roles_file_is_refused(tmp_path, text, sentence):
    with pytest.raises(InputError, match=sentence):
        graphs.from_yaml(write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.yaml cannot be read: No such file"):
        graphs.from_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"nowhere.dot cannot be read: No such file"):
        graphs.from_dag(tmp_path / "nowhere.dot", "y")
    (tmp_path / "latin.dag").write_bytes("é y".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.dag cannot be read: it is no UTF-8 text"):
        graphs.from_dag(tmp_path / "latin.dag", "y")


@pytest.mark.parametrize(
    ("name", "text"),
    [("graph.dag", EDGES), ("graph.txt", "\ufeff" + EDGES), ("g.dot", DOT), ("g.GV", DOT)],
)
def test_the_markov_blanket_of_a_hand_drawn_graph(tmp_path, name, text):
    roles = graphs.from_dag(write(tmp_path, text, name), "y", categorical=["z", "g"])
    assert roles == Roles(**BLANKET, categorical=("z", "g"))
    assert roles.columns == ("a1", "z", "c1", "c2", "x1", "x2")  # no g, p or s
    assert roles.roles_of("z") == (PARENT, COPARENT)
    assert roles.roles_of("x1") == (CHILD,)  # a child that causes a child
    assert roles.roles_of("g") == roles.roles_of("p") == roles.roles_of("s") == ()


def test_the_blanket_of_another_node(tmp_path):
    roles = graphs.from_dag(write(tmp_path, EDGES, "g.dag"), "x2")
    assert (roles.parents, roles.coparents, roles.children) == (("x1", "y", "z"), (), ())


def test_the_order_of_lines_changes_nothing(tmp_path):
    lines = EDGES.splitlines()
    shuffled = "\n".join(np.random.default_rng(0).permutation(lines))
    one, two = write(tmp_path, EDGES, "one.dag"), write(tmp_path, shuffled, "two.dag")
    assert graphs.from_dag(one, "y") == graphs.from_dag(two, "y")


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ('digraph { "blood pressure" -> y }', ("blood pressure", "y")),
        ('digraph { "a:b" -> y }', ("a:b", "y")),  # a colon inside quotes starts no port
        ('digraph { "a b":f0 -> y:n }', ("a b", "y")),
        (r'digraph { "say \"a\"" -> y }', ('say "a"', "y")),
        ('digraph { graph [x=1]; node [x=1]; edge [x=1]; a -> y; "\\n" }', ("a", "y")),
        ('digraph { "node" -> y; alone; }', ("alone", "node", "y")),
        ("digraph { a -> {b -> c; subgraph s { d }} -> y }", ("a", "b", "c", "d", "y")),
        ("digraph { a -> y [label=<a -- y>]; a -> {} }", ("a", "y")),
        ("strict digraph { a -> y; a -> y [dir=forward] } /* -- */ // --", ("a", "y")),
    ],
)
def test_names_in_a_dot_file(tmp_path, text, nodes):
    assert graphs.from_dag(write(tmp_path, text, "g.dot"), "y").nodes == nodes


def test_a_dot_subgraph_stands_for_its_nodes(tmp_path):
    path = write(tmp_path, "digraph { y -> {b -> c; d}; {e; f} -> b }", "g.dot")
    roles = graphs.from_dag(path, "y")
    assert roles.children == ("b", "c", "d")
    assert roles.coparents == ("e", "f")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("g.dag", "a y\nb y extra # no", r"g.dag, line 2: 'b y extra # no' was given; two words"),
        ("g.dag", "# fine\n\na", r"g.dag, line 3: 'a' was given; two words"),
        ("g.dag", "a b\nb c\nc a\nc y", r"a -> b -> c -> a is a cycle"),
        ("g.dag", "y y", r"y -> y is a cycle"),
        ("g.dag", "", r"g.dag: no edge was found"),
        ("g.dag", "# only\n # comments", r"g.dag: no edge was found"),
        ("g.dag", "a yy", r"unknown target 'y'; did you mean 'yy'\? Valid names: a, yy"),
        ("g.dot", "", r"g.dot is no valid DOT file"),
        ("g.dot", "digraph { y }", r"g.dot: no edge was found"),
        ("g.dot", "digraph {\n a -> \n}", r"g.dot is no valid DOT file at line \d"),
        ("g.dot", "dag { a -> y }", r"g.dot is no valid DOT file at line 1"),
        ("g.dot", "graph { a -- y }", r"g.dot is an undirected graph"),
        ("g.dot", "digraph { a -- y }", r"g.dot is an undirected graph"),
        ("g.dot", "digraph { a -> y } digraph { b -> y }", r"g.dot holds 2 graphs"),
        ("g.dot", "digraph { a -> y [dir=both] }", r"a -> y has dir=both; write every edge"),
        ("g.dot", "digraph { edge [dir=back]; a -> y }", r"the default edge has dir=back"),
        ("g.dot", "digraph { y -> b -> y }", r"(y -> b -> y|b -> y -> b) is a cycle"),
        ("g.dot", "digraph { a -> b; y }", r"target 'y' has no parents, co-parents or children"),
    ],
)
def test_a_bad_graph_is_refused(tmp_path, capsys, name, text, sentence):
    with pytest.raises(InputError, match=sentence):
        graphs.from_dag(write(tmp_path, text, name), "y")
    assert capsys.readouterr().out == ""  # pydot's own printing
