"""Build the programs of a control plane to test with, once, into a cache: `make control-plane`.

The versions are those of go.mod beside this file, and Go fetches the sources as it is set up to. The tests
(support_programs) ask `cached` where the programs are; nothing else uses this module. It needs Go and the
standard library, and must not know what the programs are for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODULE = Path(__file__).resolve().parent
KUBERNETES = "k8s.io/kubernetes"
PACKAGES = {
    "certificates": "./certificates",
    "etcd": "go.etcd.io/etcd/server/v3",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    "kubectl": f"{KUBERNETES}/cmd/kubectl",
    "kube-scheduler": f"{KUBERNETES}/cmd/kube-scheduler",
    "kube-apiserver": f"{KUBERNETES}/cmd/kube-apiserver",
    "kube-controller-manager": f"{KUBERNETES}/cmd/kube-controller-manager",
}
"""Each program and the package that it is built from; quick ones first, so that an error comes soon."""

VERSION_PACKAGE = "k8s.io/component-base/version"
NICENESS = 10
KEY_DIGITS = 12


class BuildError(Exception):
    """The programs cannot be built; the message says why, and what to do."""


def main() -> int:
    """Build what is not there yet, and say where it is."""
    try:
        directory = build()
    except BuildError as error:
        sys.stderr.write(f"control-plane: {error}\n")
        return 1
    say(f"control-plane: in {directory}")
    return 0


def build() -> Path:
    """Build all programs, if this version of them is not in the cache yet.

    The directory appears in the cache complete or not at all; two builds at once do not disturb each other.

    Returns:
        The directory with the programs.

    Raises:
        BuildError: Go is missing or too old, or a program does not build.
    """
    directory = cache() / f"{key()}-{go_version()}"
    if is_complete(directory):
        return directory
    say(f"control-plane: Kubernetes {version(KUBERNETES)}, {len(PACKAGES)} programs;")
    say("the first build takes 10 to 25 minutes on two cores, later ones less")
    os.nice(NICENESS)
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache()) as name:
        building = Path(name) / "bin"
        building.mkdir()
        for program, package in PACKAGES.items():
            compile_program(package, building / program)
        shutil.rmtree(directory, ignore_errors=True)  # an incomplete one
        try:
            building.rename(directory)
        except OSError:
            if not is_complete(directory):  # otherwise another build was quicker
                raise
    return directory


def compile_program(package: str, target: Path) -> None:
    """Compile one program, and say how long it took.

    Raises:
        BuildError: It does not build; what Go says is on the terminal.
    """
    started_s = time.monotonic()
    command = [go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", linker_flags()]
    done = subprocess.run([*command, "-o", target, package], cwd=MODULE, check=False)
    if done.returncode:
        raise BuildError(f"{target.name} does not build: what Go says about it stands above")
    seconds, megabytes = time.monotonic() - started_s, target.stat().st_size / 1e6
    say(f"  {target.name:24} {seconds:5.0f} s {megabytes:5.0f} MB")


def linker_flags() -> str:
    """No symbols, and the version that the programs report: kubectl and the API server compare theirs."""
    major, minor = version(KUBERNETES).removeprefix("v").split(".")[:2]
    values = {
        "gitVersion": version(KUBERNETES),
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    stamps = [f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in values.items()]
    return " ".join(["-s", "-w", *stamps])


def cached() -> Path | None:
    """The directory with the programs, if they are built; needs no Go."""
    complete = [path for path in cache().glob(f"{key()}-go*") if is_complete(path)]
    return max(complete, key=lambda path: path.stat().st_mtime, default=None)


def is_complete(directory: Path) -> bool:
    """Whether all programs are in a directory."""
    return all((directory / program).is_file() for program in PACKAGES)


def cache() -> Path:
    """Where all versions of the programs are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "everynode" / "control-plane"


def key() -> str:
    """What the programs are made from, short: another version, module or flag gives another key."""
    sources = [MODULE / "go.mod", MODULE / "go.sum", *sorted(MODULE.glob("certificates/*.go"))]
    contents = [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources]
    recipe = "\n".join([*contents, linker_flags(), *PACKAGES.values()])
    return f"{version(KUBERNETES)}-{hashlib.sha256(recipe.encode()).hexdigest()[:KEY_DIGITS]}"


def version(module: str) -> str:
    """The version of a module that go.mod asks for."""
    return from_go_mod(rf"^\t{re.escape(module)} (v\S+)$")


def from_go_mod(pattern: str) -> str:
    """The first group of a pattern that stands in go.mod."""
    found = re.search(pattern, (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{MODULE / 'go.mod'} has no line like {pattern}: it is damaged")
    return found[1]


def go() -> str:
    """The go command.

    Raises:
        BuildError: There is none.
    """
    found = shutil.which("go")
    if found is None:
        needed = from_go_mod(r"^go (\S+)$")
        raise BuildError(f"go was not found: install Go {needed} or newer, and put it on the PATH")
    return found


def go_version() -> str:
    """The version of Go that builds this module, such as go1.26.8.

    Raises:
        BuildError: It is too old for the module.
    """
    command = [go(), "env", "GOVERSION"]
    answer = subprocess.run(command, cwd=MODULE, capture_output=True, text=True, check=False)
    if answer.returncode:
        needed = from_go_mod(r"^go (\S+)$")
        raise BuildError(
            f"Go {needed} or newer is needed, and {go()} says: {answer.stderr.strip()}"
        )
    return answer.stdout.strip()


def say(line: str) -> None:
    """Tell the person who waits."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
