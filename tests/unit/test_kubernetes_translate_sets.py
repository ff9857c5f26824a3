"""Sets and the versions of their templates as they come from a server, and what the engine makes of them."""

import json
from typing import Any

import msgspec
import pytest
from tests.unit.support_kubernetes_objects import T_MS, T, api_revision, api_set, encoded

from everynode.core.identity import canonical, revision_hash
from everynode.core.values import DaemonSet, Requirement, Revision
from everynode_kubernetes.objects import ApiDaemonSet, parse_daemonset
from everynode_kubernetes.translate import (
    Rejection,
    daemonset_of,
    revision_of,
    strategy_problems,
    template_in,
)


def translated(api: ApiDaemonSet, backend: str = "east") -> DaemonSet:
    """The set that the engine gets."""
    result = daemonset_of(api, backend)
    assert isinstance(result, DaemonSet), result
    return result


class TestDaemonSets:
    """Sets."""

    def test_everything(self) -> None:
        """It has the identity and the generation that the server gave it, and belongs to this cluster."""
        annotations = {
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "deprecated.daemonset.template.generation": "3",
            "note": "n",
        }
        api = api_set(
            {"minReadySeconds": 5, "revisionHistoryLimit": 2},
            annotations,
            labels={"l": "v"},
            creationTimestamp=T,
        )
        daemonset = translated(api)
        assert ("ns", "x", "u", 3) == (
            *daemonset.key,
            daemonset.uid,
            daemonset.generation,
        )
        assert ("east", "east") == (daemonset.backend, daemonset.origin)
        assert ({"l": "v"}, {"note": "n"}) == (daemonset.labels, daemonset.annotations)
        assert (5, 2) == (daemonset.min_ready_seconds, daemonset.revision_history_limit)
        assert (T_MS, False) == (daemonset.created_ms, daemonset.deleting)
        assert {"app": "a"} == daemonset.selector.match_labels
        strategy = daemonset.update_strategy
        assert ("RollingUpdate", 1, 0, False) == (
            strategy.type,
            strategy.max_unavailable,
            strategy.max_surge,
            strategy.paused,
        )
        assert () == strategy_problems(api)

    def test_expressions(self) -> None:
        """A selector may have any of the forms that a server takes."""
        expression = {"key": "app", "operator": "In", "values": ["a", "b"]}
        daemonset = translated(api_set({"selector": {"matchExpressions": [expression]}}))
        expected = Requirement(key="app", operator="In", values=("a", "b"))
        assert (expected,) == daemonset.selector.match_expressions

    def test_on_its_way_out(self) -> None:
        """It is left alone."""
        assert translated(api_set(deletionTimestamp=T)).deleting

    def test_the_template_is_kept_as_it_is(self) -> None:
        """But for the empty time of creation that old servers write: also null means something to Kubernetes."""
        volume = {"name": "v", "projected": {"sources": None, "defaultMode": 420}}
        template = {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"volumes": [volume], "containers": [{"name": "c", "image": "i"}]},
        }
        plain = translated(api_set({"template": template}))
        assert canonical(json.dumps(template).encode()) == bytes(plain.template)
        old = {**template, "metadata": {"creationTimestamp": None, "labels": {"app": "a"}}}
        assert bytes(plain.template) == bytes(translated(api_set({"template": old})).template)
        revision = api_revision(
            data={"spec": {"template": {**old, "$patch": "replace"}}}, revision=1
        )
        assert revision_hash(plain.template) == revision_hash(template_in(revision) or b"{}")

    def test_a_mistake_that_servers_take(self) -> None:
        """Then it is not for the engine, and the reasons say so."""
        rejection = daemonset_of(api_set({"selector": {}}), "east")
        assert isinstance(rejection, Rejection)
        assert "spec.selector: is empty" in str(rejection)
        assert isinstance(daemonset_of(parse_daemonset(encoded()), "east"), Rejection)
        no_template = api_set({"template": None})
        assert "spec.template" in str(daemonset_of(no_template, "east"))

    def test_too_large(self) -> None:
        """What does not fit into a message of the log is refused."""
        rejection = daemonset_of(api_set(labels=dict.fromkeys(map(str, range(99_999)), "x")), "b")
        assert isinstance(rejection, Rejection)
        assert "bytes" in rejection.text

    def test_a_strategy_that_cannot_be_read(self) -> None:
        """The set is kept everywhere, but its rollout waits until the annotation is corrected."""
        api = api_set(annotations={"everynode.dev/partition": "many", "everynode.dev/odd": "x"})
        assert translated(api).update_strategy.paused
        (problem,) = strategy_problems(api)
        assert "metadata.annotations[everynode.dev/partition]" == problem.field

    def test_a_strategy_of_tomorrow(self) -> None:
        """A server that is newer than we are may know more: that is no reason to leave nodes without a pod."""
        api = api_set({"updateStrategy": {"type": "Recreate"}})
        assert translated(api).update_strategy.paused
        assert ["spec.updateStrategy.type"] == [each.field for each in strategy_problems(api)]

    def test_our_annotations(self) -> None:
        """They say what apps/v1 has no field for."""
        strategy = translated(api_set(annotations={"everynode.dev/partition": "3"})).update_strategy
        assert (3, False) == (strategy.partition, strategy.paused)

    def test_for_another_backend(self) -> None:
        """A set of a cluster is for that cluster; one that says otherwise is not run at all."""
        there = api_set(annotations={"everynode.dev/backend": "west"})
        assert "is west, and this cluster is east" in str(daemonset_of(there, "east"))
        assert "west" == translated(there, "west").backend


class TestRevisions:
    """Versions of templates."""

    def test_everything(self) -> None:
        """Its name in the fleet is the hash of what is in it."""
        template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}}
        api = api_revision(
            metadata={
                "namespace": "ns",
                "creationTimestamp": T,
                "annotations": {"kubernetes.io/change-cause": "because"},
            },
            data={"spec": {"template": {"$patch": "replace", **template}}},
            revision=4,
        )
        content = canonical(json.dumps(template).encode())
        expected = Revision(
            namespace="ns",
            daemonset="s",
            daemonset_uid="o",
            hash=revision_hash(content),
            number=4,
            template=msgspec.Raw(content),
            created_ms=T_MS,
            change_cause="because",
        )
        found = revision_of(api, "s", "o")
        assert msgspec.json.encode(expected) == msgspec.json.encode(found)

    @pytest.mark.parametrize(
        "data",
        [
            None,
            1,
            [],
            {},
            {"spec": None},
            {"spec": {"template": None}},
            {"spec": {"template": {}}},
            {"spec": {"template": {"$patch": "merge"}}},
        ],
    )
    def test_something_else(self, data: object) -> None:
        """A ControllerRevision may hold what another controller put there."""
        api = api_revision(data=data)
        assert (None, None) == (template_in(api), revision_of(api, "s", "o"))

    def test_nothing(self) -> None:
        """One without any data holds no template."""
        assert template_in(api_revision()) is None

    def test_a_template_without_metadata(self) -> None:
        """Nothing is taken out of what is not there."""
        data: Any = {"spec": {"template": {"$patch": "replace", "metadata": None, "spec": {}}}}
        assert b'{"metadata":null,"spec":{}}' == template_in(api_revision(data=data))

    def test_nested_too_deep(self) -> None:
        """It holds no template that anybody could use (L3)."""
        deep = msgspec.structs.replace(
            api_revision(), data=msgspec.Raw(b"[" * 9_000 + b"]" * 9_000)
        )
        assert template_in(deep) is None
        broken = msgspec.structs.replace(api_revision(), data=msgspec.Raw(b"{"))
        assert template_in(broken) is None
