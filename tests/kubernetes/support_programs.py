"""Where the programs of a control plane to test with are, and what is said if they are missing.

Used by conftest and by whatever starts a control plane.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.kubernetes.control_plane import build

REQUIRED_BY = "EVERYNODE_CONTROL_PLANE"
"""Set to `required`, as .ci/run does, and tests fail instead of being skipped where programs are missing."""


class MissingProgramsError(Exception):
    """Programs of the control plane were not found; the message says how to get them."""


@dataclass(frozen=True)
class Programs:
    """The programs that make up a control plane, by path."""

    certificates: Path
    etcd: Path
    kwok: Path
    kubectl: Path
    scheduler: Path
    api_server: Path
    controller_manager: Path


def find_programs() -> Programs:
    """Find each program: what `make control-plane` built, else in KUBEBUILDER_ASSETS, else on the PATH.

    Raises:
        MissingProgramsError: At least one was not found.
    """
    found = {name: find(name) for name in build.PACKAGES}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise MissingProgramsError(
            f"no {', '.join(missing)} to test with: `make control-plane` builds all that is needed (it takes Go)"
        )
    paths = {name: path for name, path in found.items() if path is not None}
    return Programs(
        certificates=paths["certificates"],
        etcd=paths["etcd"],
        kwok=paths["kwok"],
        kubectl=paths["kubectl"],
        scheduler=paths["kube-scheduler"],
        api_server=paths["kube-apiserver"],
        controller_manager=paths["kube-controller-manager"],
    )


def find(name: str) -> Path | None:
    """Find one program, or not."""
    built = build.cached()
    if built is not None:
        return built / name
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    path = (assets and shutil.which(name, path=assets)) or shutil.which(name)
    return Path(path) if path else None


def are_required() -> bool:
    """Whether a test without its control plane is a failure."""
    return os.environ.get(REQUIRED_BY) == "required"
