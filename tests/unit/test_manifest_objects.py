"""Which objects of a file are read: kinds, versions, lists, and what becomes of everything else."""

import json
from typing import Any

import pytest

from everynode.manifest import DOCUMENT_BYTES_MAX, read_daemonsets, read_nodes

AGENT = """apiVersion: apps/v1
kind: DaemonSet
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "agent:1"}]}
"""


def agent(name: str) -> dict[str, Any]:
    """A DaemonSet as a value."""
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
            },
        },
    }


def summary(text: str | bytes | dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Read a file, and return what was accepted, rejected and skipped: place in the file, and object."""
    if isinstance(text, dict):
        text = json.dumps(text)
    found = read_daemonsets("f", text.encode() if isinstance(text, str) else text)
    accepted, rejected, skipped = (
        [f"{entry.document}{entry.item} {entry.subject}" for entry in entries]
        for entries in (found.accepted, found.rejected, found.skipped)
    )
    return accepted, rejected, skipped


def problems(text: str | dict[str, Any]) -> list[tuple[str, str]]:
    """Read a file with one object that has to be refused, and return what is wrong with it."""
    content = text if isinstance(text, str) else json.dumps(text)
    (entry,) = read_daemonsets("f", content.encode()).rejected
    return [(problem.field, problem.message) for problem in entry.errors]


def test_each_document_has_its_own_result() -> None:
    """DaemonSets are read, other kinds skipped by name, wrong ones refused, each by its number (L3)."""
    text = "\n---\n".join(
        (
            "# a header",
            "kind: Secret\nmetadata: {name: s, namespace: ns}",
            AGENT.replace("NAME", "one"),
            "a: [",
            AGENT.replace("NAME", "Two"),
            "kind: Thing\na: 1\na: 2",
            AGENT.replace("NAME", "three"),
        )
    )

    assert summary(text) == (
        ["2 DaemonSet default/one", "6 DaemonSet default/three"],
        ["3 document 3", "4 DaemonSet default/Two"],
        ["1 Secret ns/s", "5 Thing"],
    )


def test_places_name_file_document_line_and_item() -> None:
    """Every result says where its object stands."""
    text = "kind: A\n---\nkind: List\nitems: [{kind: B}, {}]\n"

    found = read_daemonsets("f.yaml", text.encode())

    assert [entry.place for entry in found.skipped] == [
        "f.yaml, document 1 (line 1)",
        "f.yaml, document 2 (line 3), items[0]",
    ]
    assert [str(entry.error()) for entry in found.rejected] == [
        (
            "f.yaml, document 2 (line 3), items[1]: kind: is missing: write what this is, such as "
            "DaemonSet"
        )
    ]


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("hello\n", "", 'is text ("hello"); a manifest is a mapping with apiVersion'),
        ("- a\n", "", "is a list; a manifest is a mapping"),
        ("7\n", "", "is a number (7); a manifest is a mapping"),
        ("a: 1\n", "kind", "is missing: write what this is"),
        ("kind: ~\n", "kind", "is missing: write what this is"),
        ("kind: [a]\n", "kind", "is a list; it must be text"),
        ("kind: 5\n", "kind", "is a number (5); it must be text"),
        ("kind: List\nitems: {}\n", "items", "is a mapping; it must be a list"),
        ("kind: List\nkind: List\n", "kind", 'key "kind" already set'),
        ("kind: List\nitems: [~]\n", "", "is null; a manifest is a mapping"),
        ("kind: List\nitems: [x]\n", "", 'is text ("x"); a manifest is a mapping'),
        ("kind: List\nitems: [{kind: ''}]\n", "kind", "is missing"),
    ],
)
def test_what_is_no_object_is_refused(text: str, field: str, message: str) -> None:
    """A document that is no object says what it is and what an object has."""
    ((found_field, found_message),) = problems(text)

    assert found_field == field
    assert found_message.startswith(message)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "extensions/v1beta1",
            '"extensions/v1beta1" is no longer served for a DaemonSet: write apps/v1',
        ),
        ("apps/v1beta1", "write apps/v1, which needs spec.selector"),
        ("apps/v1beta2", "write apps/v1, which needs spec.selector"),
        ("app/v1", '"app/v1" has no DaemonSet: write apps/v1'),
        ("v1", '"v1" has no DaemonSet: write apps/v1'),
        (None, "is missing: write apps/v1"),
        ("", "is missing: write apps/v1"),
        (1, "is a number (1); write apps/v1"),
        ([], "is missing: write apps/v1"),
        ({"a": 1}, "is a mapping; write apps/v1"),
    ],
)
def test_a_wrong_version_says_what_to_write(version: Any, message: str) -> None:
    """A DaemonSet of another apiVersion is refused with the one to write."""
    ((field, found),) = problems({**agent("a"), "apiVersion": version})

    assert field == "apiVersion"
    assert message in found


def test_a_kind_of_the_same_name_in_another_api_is_skipped() -> None:
    """A DaemonSet of somebody else's API group is another kind."""
    document = {**agent("a"), "apiVersion": "apps.kruise.io/v1alpha1"}

    assert summary(document) == ([], [], ["1 DaemonSet a"])


def test_names_in_results_cannot_garble_a_terminal() -> None:
    """Kinds and names are shown without control characters, and cut if they are long."""
    name = {"kind": "\x1b[1m", "metadata": {"name": "n" * 300, "namespace": "\n"}}

    assert summary(name)[2] == [f"1 \\u001b[1m \\n/{'n' * 253}..."]


def test_lists_are_taken_apart() -> None:
    """The items of a List, and of a List in it, are objects with a path of their own."""
    inner = {"kind": "List", "items": [agent("c"), {"kind": "Pod", "metadata": {"name": "p"}}]}
    outer = {"apiVersion": "v1", "kind": "List", "items": [agent("a"), agent("B"), inner]}

    assert summary(outer) == (
        ["1items[0] DaemonSet default/a", "1items[2].items[0] DaemonSet default/c"],
        ["1items[1] DaemonSet default/B"],
        ["1items[2].items[1] Pod p"],
    )
    assert summary({"kind": "List"}) == ([], [], [])


def test_a_list_of_one_kind_need_not_name_it_in_its_items() -> None:
    """What the API server returns for a list, in which the items have no kind, is read."""
    items = [{key: value for key, value in agent("a").items() if key not in {"kind", "apiVersion"}}]

    text = json.dumps({"kind": "DaemonSetList", "apiVersion": "apps/v1", "items": [*items, 5]})

    accepted, rejected, _ = summary(text)
    assert accepted == ["1items[0] DaemonSet default/a"]
    assert rejected == ["1items[1] document 1"]
    assert summary({"kind": "PodList", "items": []}) == ([], [], ["1 PodList"])


def test_what_is_wrong_with_the_text_of_an_item_is_that_items_problem() -> None:
    """A duplicate key in one item of a list leaves the other items alone (L3)."""
    text = (
        "kind: List\nitems:\n"
        "- {kind: Pod, kind: Pod}\n"
        "- {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, name: b}}\n"
        "- .nan\n"
        "- kind: List\n"
        "  items: [{kind: DaemonSet, metadata: !x {}}]\n"
    )

    found = read_daemonsets("f", text.encode())

    assert [(entry.item, entry.errors[0].field) for entry in found.rejected] == [
        ("items[1]", "metadata.name"),
        ("items[2]", ""),
        ("items[3].items[0]", "metadata"),
    ]
    assert [entry.item for entry in found.skipped] == ["items[0]"]


@pytest.mark.parametrize(("lists", "skipped"), [(10, ["Pod"]), (11, [])])
def test_lists_may_stand_in_lists(lists: int, skipped: list[str]) -> None:
    """Up to ten lists may stand inside each other."""
    document: dict[str, Any] = {"kind": "Pod"}
    for _ in range(lists):
        document = {"kind": "List", "items": [document]}

    found = read_daemonsets("f", json.dumps(document).encode())

    assert [entry.subject for entry in found.skipped] == skipped
    assert len(found.rejected) == (not skipped)


def test_lists_in_lists_have_a_limit() -> None:
    """Lists that stand inside each other too deep, if only by aliases, are refused (B1)."""
    text = "x0: &x0 {kind: Pod}\n"
    for number in range(1, 500):
        text += f"x{number}: &x{number} {{kind: List, items: [*x{number - 1}]}}\n"
    text += "kind: List\nitems: [*x499]\n"

    ((field, message),) = problems(text)

    assert field == "items"
    assert "nested deeper than 10" in message


@pytest.mark.parametrize("how", ["text", "aliases"])
def test_an_item_that_is_too_large_is_refused(how: str) -> None:
    """An item of a list has the limit that a document has, also if aliases make it that large (B1)."""
    large = {"text": '"' + "x" * DOCUMENT_BYTES_MAX + '"', "aliases": "[" + "*x, " * 2000 + "]"}
    item = f"{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: a}}, odd: {large[how]}}}"
    text = f"kind: List\nx: &x [{'y, ' * 500}]\nitems:\n- {item}\n- {json.dumps(agent('b'))}\n"

    accepted, rejected, _ = summary(text)

    assert accepted == ["1items[1] DaemonSet default/b"]
    assert rejected == ["1items[0] DaemonSet a"]
    ((field, message),) = problems(text)
    assert (field, message) == ("", "is larger than 921600 bytes: make it smaller")


def test_a_file_may_hold_nodes_and_daemonsets() -> None:
    """Each reader takes its own kind of a file that holds several."""
    content = (
        AGENT.replace("NAME", "a")
        + "---\napiVersion: v1\nkind: Node\n"
        + "metadata: {name: node}\n"
    ).encode()

    manifests, nodes = read_daemonsets("f", content), read_nodes([("f", content)], "local")

    assert [entry.subject for entry in manifests.accepted] == ["DaemonSet default/a"]
    assert [entry.subject for entry in manifests.skipped] == ["Node node"]
    assert [entry.subject for entry in nodes.accepted] == ["Node node"]
    assert [entry.subject for entry in nodes.skipped] == ["DaemonSet a"]
