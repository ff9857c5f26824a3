"""What people are shown of a pod template: images, node selector, tolerations; never an environment.

Used by `get` and `describe`. A template that cannot be read shows as an empty one: what is wrong with it is said by
those who have to act on it.
"""

from __future__ import annotations

import msgspec

from everynode.core.eligibility import Toleration


class Container(msgspec.Struct):
    """A container, as far as it is shown: its environment may hold secrets."""

    name: str = ""
    image: str = ""


class PodSpec(msgspec.Struct, rename="camel"):
    """A pod's spec, as far as it is shown."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None


class PodMetadata(msgspec.Struct):
    """A pod's metadata, as far as it is shown."""

    labels: dict[str, str] | None = None


class PodTemplate(msgspec.Struct):
    """A pod template, as far as it is shown."""

    metadata: PodMetadata = msgspec.field(default_factory=PodMetadata)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


_decoder = msgspec.json.Decoder(PodTemplate)


def read_template(template: msgspec.Raw) -> PodTemplate:
    """Read what is shown of a template."""
    try:
        return _decoder.decode(template)
    except msgspec.DecodeError:
        return PodTemplate()


def describe_toleration(toleration: Toleration) -> str:
    """Write a toleration as kubectl does: `key=value:Effect op=Equal`."""
    value = f"={toleration.value}" if toleration.value else ""
    effect = f":{toleration.effect}" if toleration.effect else ""
    return f"{toleration.key or ''}{value}{effect} op={toleration.operator or 'Equal'}".strip()
