"""What all objects have: a name, labels, annotations (apimachinery, pkg/api/validation/objectmeta.go).

Used by ``podtemplate``, ``daemonset`` and ``node``.
"""

from __future__ import annotations

from everynode.manifest.fields import Field
from everynode.manifest.names import label_value_problem, qualified_name_problem, quoted

ANNOTATIONS_BYTES_MAX = 256 * 1024
"""How large the annotations of one object may be together, as in Kubernetes."""

KNOWN = frozenset(
    {
        *("name", "namespace", "labels", "annotations", "generateName"),
        # Written by a server, in what `kubectl get -o yaml` prints; of no meaning in a manifest.
        *("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers"),
        *("generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"),
    }
)
"""The fields of ``metadata``."""


def read_name(metadata: Field) -> str:
    """Read the name of an object that has to have one; its syntax is up to the caller."""
    if metadata.child("generateName").absent:
        return metadata.child("name").needed_text("write a name")
    return metadata.child("name").needed_text(
        "generateName is not enough, as what is applied again needs the same name each time"
    )


def read_labels(labels: Field) -> dict[str, str]:
    """Read labels, or what looks like them (a nodeSelector, matchLabels)."""
    result = labels.text_map()
    for key, value in result.items():
        labels.reject_if(qualified_name_problem(key))
        if problem := label_value_problem(value):
            labels.reject(f"the value of {quoted(key)}: {problem}")
    return result


def read_annotations(annotations: Field) -> dict[str, str]:
    """Read annotations: keys as those of labels but in any case, and any text."""
    result = annotations.text_map()
    for key in result:
        annotations.reject_if(qualified_name_problem(key.lower()))
    size = sum(len(key.encode()) + len(value.encode()) for key, value in result.items())
    if size > ANNOTATIONS_BYTES_MAX:
        annotations.reject(f"have {size} bytes; at most {ANNOTATIONS_BYTES_MAX} are allowed")
    return result
