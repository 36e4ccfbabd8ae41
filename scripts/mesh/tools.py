"""The two ways to install Linkerd: its own command line, and Helm.

Both take the same values files and the same certificates. A part is installed by `install`, which
says how many objects it changed, or rendered by `render`, which touches nothing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from scripts.mesh.certificates import ANCHOR, ISSUER, ISSUER_KEY, Chain
from scripts.mesh.cluster import CNI_NAMESPACE, NAMESPACE
from scripts.mesh.command import apply, differs, output
from scripts.mesh.versions import ROOT, Versions
from serving.errors import ChopstickError

VALUES = ROOT / "mesh" / "linkerd" / "control-plane"
CHART_REPOSITORY = "https://helm.linkerd.io/edge"
NAMES = ("linkerd", "helm")


class Part(Enum):
    """What Linkerd consists of, in the order of its installation; values are the charts' names."""

    CRDS = "linkerd-crds"
    CNI = "linkerd2-cni"
    CONTROL_PLANE = "linkerd-control-plane"


@dataclass(frozen=True)
class Wishes:
    """What the person wants: settings on top of the values files, for each part that takes some.

    `chain` is None where an upgrade keeps the certificates that are installed.
    """

    highly_available: bool = False
    settings: tuple[str, ...] = ()
    cni_settings: tuple[str, ...] = ()
    chain: Chain | None = None

    def values(self, part: Part) -> list[Path]:
        """Values files of a part, later ones over earlier ones."""
        if part is Part.CRDS:
            return [VALUES / "values-crds.yaml"]
        if part is Part.CNI:
            return [VALUES / "values-cni.yaml"]
        return [
            VALUES / "values.yaml",
            *([VALUES / "values-ha.yaml"] if self.highly_available else []),
        ]

    def sets(self, part: Part) -> tuple[str, ...]:
        """The person's own settings for a part."""
        return {Part.CNI: self.cni_settings, Part.CONTROL_PLANE: self.settings}.get(part, ())

    def options(self, part: Part) -> list[str]:
        """Values files and settings as both tools take them."""
        files = [word for path in self.values(part) for word in ("--values", str(path))]
        return files + [word for each in self.sets(part) for word in ("--set", each)]


class Tool(Protocol):
    """A way to install Linkerd."""

    @property
    def name(self) -> str:
        """What it is called on PATH."""

    @property
    def version(self) -> str:
        """What it says its version is."""

    @property
    def repeatable(self) -> frozenset[Part]:
        """Parts that stay as they are when they are installed again.

        Charts that make webhook certificates differ in every rendering, and Helm counts a revision
        for each run.
        """

    def install(self, part: Part, wishes: Wishes, *, upgrade: bool) -> tuple[int, int | None]:
        """Install or upgrade a part: how many objects it has, how many changed (None: unknown)."""

    def render(self, part: Part, wishes: Wishes) -> str:
        """The manifest of a part. It may hold keys: it is never to be printed."""


@dataclass(frozen=True)
class LinkerdCommand:
    """`linkerd`, whose charts are inside it; kubectl applies what it renders."""

    version: str
    name: str = "linkerd"
    repeatable: frozenset[Part] = frozenset({Part.CRDS, Part.CNI})

    def install(self, part: Part, wishes: Wishes, *, upgrade: bool) -> tuple[int, int | None]:
        """Install or upgrade a part: how many objects it has, how many changed (None: unknown)."""
        verb = ["install-cni"] if part is Part.CNI else ["upgrade" if upgrade else "install"]
        manifest = self._rendered(part, wishes, verb)
        if upgrade and part in self.repeatable and not differs(manifest):
            return objects(manifest), 0
        return apply(manifest, "Nothing after this step was tried; run it again once it is mended.")

    def render(self, part: Part, wishes: Wishes) -> str:
        """The manifest of a part. It may hold keys: it is never to be printed."""
        verb = ["install-cni"] if part is Part.CNI else ["install", "--ignore-cluster"]
        return self._rendered(part, wishes, verb)

    def _rendered(self, part: Part, wishes: Wishes, verb: list[str]) -> str:
        command = ["linkerd", *verb, *(["--crds"] if part is Part.CRDS else [])]
        command += wishes.options(part)
        if part is Part.CONTROL_PLANE and wishes.chain:
            command += [
                f"--identity-trust-anchors-file={wishes.chain.path(ANCHOR)}",
                f"--identity-issuer-certificate-file={wishes.chain.path(ISSUER)}",
                f"--identity-issuer-key-file={wishes.chain.path(ISSUER_KEY)}",
            ]
        return output(command, "linkerd check --pre tells more.")


@dataclass(frozen=True)
class Helm:
    """`helm`, with charts from Linkerd's repository, or from `charts`, a folder that has them."""

    version: str
    versions: Versions
    charts: Path | None = None
    name: str = "helm"
    repeatable: frozenset[Part] = field(default_factory=frozenset)

    def install(self, part: Part, wishes: Wishes, *, upgrade: bool) -> tuple[int, int | None]:  # noqa: ARG002
        """Install or upgrade a part: how many objects it has, how many changed (None: unknown)."""
        namespaces = (VALUES / "namespaces.yaml").read_text(encoding="utf-8")
        apply(namespaces, "Helm has no way to make a namespace with labels.")
        with ExitStack() as stack:
            command = ["helm", "upgrade", "--install", part.value]
            output([*command, *self._options(part, wishes, stack)], "helm history tells more.")
        release = [part.value, "--namespace", self._namespace(part)]
        return objects(output(["helm", "get", "manifest", *release])), None

    def render(self, part: Part, wishes: Wishes) -> str:
        """The manifest of a part. It may hold keys: it is never to be printed."""
        with ExitStack() as stack:
            return output(["helm", "template", part.value, *self._options(part, wishes, stack)])

    def _options(self, part: Part, wishes: Wishes, stack: ExitStack) -> list[str]:
        options = [
            *self._chart(part, stack),
            *("--namespace", self._namespace(part)),
            *wishes.options(part),
        ]
        if part is Part.CONTROL_PLANE and wishes.chain:
            for key, name in (
                ("identityTrustAnchorsPEM", ANCHOR),
                ("identity.issuer.tls.crtPEM", ISSUER),
                ("identity.issuer.tls.keyPEM", ISSUER_KEY),
            ):
                options += ["--set-file", f"{key}={wishes.chain.path(name)}"]
        return options

    def _chart(self, part: Part, stack: ExitStack) -> list[str]:
        """What names the chart: repository and version, an archive, or a folder."""
        if self.charts is None:
            repository = ["--repo", CHART_REPOSITORY, "--version", self.versions.chart]
            return [part.value, *repository]
        archives = sorted(self.charts.glob(f"{part.value}-*.tgz"))
        if archives:
            return [str(archives[-1])]
        chart = self.charts / part.value
        if not (chart / "Chart.yaml").is_file():
            raise ChopstickError(
                f"there is no chart {part.value} in '{self.charts}'",
                f"helm pull {part.value} --repo {CHART_REPOSITORY} --version {self.versions.chart}",
            )
        if (chart / "charts").is_dir():
            return [str(chart)]
        # Linkerd's own checkout: a chart finds its library beside it once Helm has packed that
        # into it, which is done in a copy, and the version is filled in at release.
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="charts-")), "charts")
        shutil.copytree(self.charts, work)
        output(["helm", "dependency", "build", str(work / part.value)])
        version = f"linkerdVersion={self.versions.linkerd}"
        return [
            str(work / part.value),
            *(["--set", version] if part is Part.CONTROL_PLANE else []),
        ]

    @staticmethod
    def _namespace(part: Part) -> str:
        return CNI_NAMESPACE if part is Part.CNI else NAMESPACE


def find(wanted: str | None, versions: Versions, charts: Path | None = None) -> Tool:
    """The tool of that name, or the first of `linkerd` and `helm` that is on PATH.

    Raises ChopstickError when it isn't there, or when kubectl isn't, which both need here.
    """
    if shutil.which("kubectl") is None:
        raise ChopstickError(
            "kubectl is not on PATH", "Install kubectl; it also says which cluster is meant."
        )
    # A folder of charts is of use to Helm alone.
    order = [wanted] if wanted else ["helm", "linkerd"] if charts else list(NAMES)
    name = next((each for each in order if shutil.which(each)), None)
    if name is None:
        raise ChopstickError(
            f"{' and '.join(order)} {'is' if len(order) == 1 else 'are'} not on PATH",
            f"Install the linkerd CLI {versions.linkerd} (linkerd.io/getting-started), or Helm 3.",
        )
    if name == "linkerd":
        version = output(["linkerd", "version", "--client", "--short"]).strip()
        return LinkerdCommand(version)
    return Helm(output(["helm", "version", "--short"]).strip(), versions, charts)


def objects(manifest: str) -> int:
    """How many objects a manifest has."""
    return sum(line.startswith("kind:") for line in manifest.splitlines())


def fingerprint_inputs(part: Part, tool: Tool, wishes: Wishes) -> Sequence[str]:
    """All that decides what a part looks like once installed. No key, but what it belongs to."""
    chain = wishes.chain if part is Part.CONTROL_PLANE else None
    certificates = (
        [Path(chain.path(name)).read_text() for name in (ANCHOR, ISSUER)] if chain else []
    )
    version = tool.version if isinstance(tool, LinkerdCommand) else _chart_version(tool)
    texts = [path.read_text(encoding="utf-8") for path in wishes.values(part)]
    return [tool.name, version, *texts, json.dumps(wishes.sets(part)), *certificates]


def _chart_version(tool: Tool) -> str:
    assert isinstance(tool, Helm)  # noqa: S101 - there are two
    return f"{tool.versions.chart} {tool.charts or ''}"
