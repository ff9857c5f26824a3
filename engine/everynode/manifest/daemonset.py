"""DaemonSet manifests to values.

Used by ``apply`` and ``delete -f``. The rules are those of the API server (pkg/apis/apps/v1/defaults.go,
pkg/apis/apps/validation), but for one default: a set whose update strategy is not written down does not replace its
pods by itself, and the result says so.
"""

from __future__ import annotations

import msgspec

from everynode.core.budget import allows_surge
from everynode.core.selectors import selects
from everynode.core.values import NAME_LENGTH_MAX, DaemonSet, Selector
from everynode.manifest.annotations import BACKEND_ANNOTATION, warn_of_unknown
from everynode.manifest.documents import DOCUMENT_BYTES_MAX
from everynode.manifest.fields import INT32_MAX, Field
from everynode.manifest.metadata import KNOWN, read_annotations, read_labels, read_name
from everynode.manifest.names import label_problem, quoted, subdomain_problem
from everynode.manifest.objects import Object, Wanted, read_objects
from everynode.manifest.podtemplate import read_template
from everynode.manifest.results import Accepted, Manifests, Rejected, Skipped
from everynode.manifest.selectors import read_selector
from everynode.manifest.strategy import read_strategy

UNASSIGNED_UID = "unassigned"
"""The uid of a set that was read and not yet applied; applying gives it a real one."""

REVISION_HISTORY_LIMIT_DEFAULT = 10

_WANTED = Wanted(
    kind="DaemonSet",
    api_version="apps/v1",
    outdated=frozenset({"extensions/v1beta1", "apps/v1beta1", "apps/v1beta2"}),
)
_TOP_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SPEC_FIELDS = frozenset(
    {"selector", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit"}
)


def read_daemonsets(file: str, content: bytes, default_namespace: str = "default") -> Manifests:
    """Read the DaemonSets of one file; objects of other kinds are skipped, and all that is wrong is in the result.

    Args:
        file: What to call the file in the result.
        content: Its bytes: YAML or JSON, any number of documents, lists of objects too.
        default_namespace: The namespace of a set that names none.
    """
    accepted: list[Accepted] = []
    rejected: list[Rejected] = []
    skipped: list[Skipped] = []
    for found in read_objects(file, content, _WANTED):
        if isinstance(found, Object):
            result = _read(found, default_namespace)
            if isinstance(result, Accepted):
                accepted.append(result)
            else:
                rejected.append(result)
        elif isinstance(found, Rejected):
            rejected.append(found)
        else:
            skipped.append(found)
    return Manifests(accepted=tuple(accepted), rejected=tuple(rejected), skipped=tuple(skipped))


def _read(found: Object, default_namespace: str) -> Accepted | Rejected:
    daemonset, notes = _read_daemonset(found.root, default_namespace)
    findings = found.root.findings
    if findings.problems:
        return found.rejected(default_namespace)
    size = len(msgspec.json.encode(daemonset))
    if size > DOCUMENT_BYTES_MAX:
        found.root.reject(
            f"has {size} bytes; at most {DOCUMENT_BYTES_MAX} are taken: make it smaller"
        )
        return found.rejected(default_namespace)
    warnings = tuple(findings.warnings)
    return Accepted(**vars(found.place), daemonset=daemonset, notes=notes, warnings=warnings)


def _read_daemonset(root: Field, default_namespace: str) -> tuple[DaemonSet, tuple[str, ...]]:
    """Read a set; the value counts only if there are no problems."""
    root.mapping(_TOP_FIELDS)
    metadata = root.child("metadata").mapping(KNOWN)
    name = read_name(metadata)
    metadata.child("name").reject_if(subdomain_problem(name) if name else None)
    namespace = metadata.child("namespace").text() or default_namespace
    metadata.child("namespace").reject_if(label_problem(namespace))
    labels = read_labels(metadata.child("labels"))
    annotations_field = metadata.child("annotations")
    annotations = read_annotations(annotations_field)
    warn_of_unknown(annotations_field)

    spec = root.child("spec").mapping(_SPEC_FIELDS)
    selector, template = _read_selector_and_template(spec)
    strategy, notes = read_strategy(spec, annotations_field)
    if not spec.findings.problems and allows_surge(strategy):
        _warn_of_host_ports(spec.child("template").child("spec"))
    limit = spec.child("revisionHistoryLimit").integer(0, INT32_MAX)
    daemonset = DaemonSet(
        namespace=namespace,
        name=name,
        uid=UNASSIGNED_UID,
        generation=1,
        selector=selector,
        template=template,
        backend=_read_backend(annotations_field, annotations),
        labels=labels,
        annotations=annotations,
        update_strategy=strategy,
        min_ready_seconds=spec.child("minReadySeconds").integer(0, INT32_MAX) or 0,
        revision_history_limit=REVISION_HISTORY_LIMIT_DEFAULT if limit is None else limit,
    )
    return daemonset, notes


def _warn_of_host_ports(pod_spec: Field) -> None:
    """Name the ports of the node that two pods cannot have at the same time (kubernetes#106417)."""
    for container in pod_spec.child("containers").items():
        described = container.value if isinstance(container.value, dict) else {}
        ports = described.get("ports")
        for port in ports if isinstance(ports, list) else ():
            if isinstance(port, dict) and port.get("hostPort"):
                container.child("ports").warn(
                    f"hostPort {port['hostPort']} cannot be taken by an old and a new pod at the same time: "
                    "with maxSurge the rollout may stand still; write maxSurge: 0"
                )


def _read_backend(field: Field, annotations: dict[str, str]) -> str:
    backend = annotations.get(BACKEND_ANNOTATION)
    if backend is None:
        return ""
    named = backend.isprintable() and " " not in backend and 0 < len(backend) <= NAME_LENGTH_MAX
    if not named:
        field.reject(
            f"{BACKEND_ANNOTATION} is {quoted(backend)}: name one backend, or remove it for all of them"
        )
    return backend


def _read_selector_and_template(spec: Field) -> tuple[Selector, msgspec.Raw]:
    problems = spec.findings.problems
    before = len(problems)
    selector_field = spec.child("selector")
    selector = read_selector(selector_field)
    if selector_field.absent:
        selector_field.reject(
            "is missing: write matchLabels, with labels of spec.template.metadata.labels"
        )
    elif len(problems) == before and not (selector.match_labels or selector.match_expressions):
        selector_field.reject("is empty and would select every pod: write matchLabels")
    selector_valid = len(problems) == before

    template_field = spec.child("template")
    if template_field.absent:
        template_field.reject("is missing: write the pod that each node is to have")
        return selector, msgspec.Raw(b"{}")
    labels, template = read_template(template_field)
    if selector_valid and not selects(selector, labels):
        template_field.child("metadata").child("labels").reject(
            "do not match spec.selector: give the pods the labels that the selector asks for"
        )
    return selector, template
