"""`python -m scripts.mesh …`: the commands behind `make mesh`, `make mesh-cert`, `make mesh-check`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from scripts.mesh import certificates as certs
from scripts.mesh import cluster, install, preflight, tools, versions
from scripts.mesh.command import KUBECTL, output
from scripts.say import say, timed
from serving.cli import tell
from serving.errors import ChopstickError

_CERTIFICATES = click.option(
    "--certificates",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of `certificates` (.mesh/certificates).",
)
_WITH = click.option(
    "--with",
    "wanted",
    type=click.Choice(tools.NAMES),
    default=None,
    help="What installs (the first that is on PATH).",
)
_HA = click.option("--ha", is_flag=True, help="Three of each part of the control plane.")
_CHARTS = click.option(
    "--charts",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=None,
    help="Folder of Linkerd's charts, for Helm without its repository.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Linkerd: certificates, installation, upgrade and check; docs/mesh.md tells more."""


@main.command(name="install")
@_HA
@_WITH
@_CERTIFICATES
@_CHARTS
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A value of the chart.")
@click.option(
    "--set-cni", "cni_settings", multiple=True, metavar="KEY=VALUE", help="One of the CNI plugin's."
)
@click.option("--again", is_flag=True, help="Also what would change nothing; renews webhooks.")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=install.PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="How long each rollout may take.",
)
@click.option("--dry-run", is_flag=True, help="Preflight and rendering; the cluster is only read.")
def install_command(
    ha: bool,
    wanted: str | None,
    certificates: Path | None,
    charts: Path | None,
    settings: tuple[str, ...],
    cni_settings: tuple[str, ...],
    again: bool,
    patience: int,
    dry_run: bool,
) -> None:
    """Install or upgrade Linkerd in the cluster of the current context, after a preflight."""
    plan, chain_error = _plan(ha, wanted, certificates, charts)
    wishes = tools.Wishes(ha, settings, cni_settings, plan.wishes.chain)
    plan = install.Plan(plan.versions, plan.tool, wishes, again, patience)
    situation = _preflight(plan, chain_error)
    if dry_run:
        install.rehearse(plan)
        say("dry run: nothing was changed")
        return
    changed = install.install(plan, situation)
    if plan.tool.name == "linkerd" or shutil.which("linkerd"):
        with timed("linkerd check"):
            install.check(plan.versions, "--output=short")
    else:
        say("    linkerd is not on PATH: rollouts were awaited, `linkerd check` was not run")
    done = "installed" if changed else "installed already; nothing was changed"
    say(f"Linkerd {plan.versions.linkerd} is {done}")


@main.command(name="preflight")
@_HA
@_WITH
@_CERTIFICATES
def preflight_command(ha: bool, wanted: str | None, certificates: Path | None) -> None:
    """Say what stands in the way of an installation; exit status 1 when something does."""
    plan, chain_error = _plan(ha, wanted, certificates, None)
    _preflight(plan, chain_error)


@main.command(name="check")
@click.option(
    "--namespace",
    "-n",
    "namespaces",
    multiple=True,
    help="Only these (every meshed one).",
    metavar="NAMESPACE",
)
def check_command(namespaces: tuple[str, ...]) -> None:
    """`linkerd check` of the control plane, then of the proxies; exit status 1 unless all is well.

    Names every pod of a meshed namespace that has no proxy.
    """
    pinned = versions.read()
    tools.find("linkerd", pinned)
    say(f"context {_context()}")
    install.check(pinned)
    # One pod with a proxy makes no meshed namespace: others may be left out of it on purpose.
    whole = set(namespaces) or cluster.namespaces_to_mesh()
    unmeshed = []
    for namespace in sorted(whole | (set() if namespaces else cluster.namespaces_with_proxies())):
        with timed(f"proxies in '{namespace}'"):
            install.check(pinned, "--proxy", f"--namespace={namespace}", "--output=short")
            if namespace in whole:
                unmeshed += [f"{namespace}/{pod}" for pod in cluster.unmeshed_pods(namespace)]
    if unmeshed:
        raise ChopstickError(
            f"{len(unmeshed)} pod(s) have no proxy: {', '.join(unmeshed[:10])}",
            "They were started before the injector or without its annotation:"
            " kubectl rollout restart of their workloads, then check again.",
        )


@main.command(name="certificates")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=certs.DIRECTORY,
    help="Where they are written (.mesh/certificates).",
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Of the issuer."
)
@click.option(
    "--anchor-days",
    type=click.IntRange(1, 36500),
    default=3650,
    show_default=True,
    help="Of the trust anchor.",
)
@click.option("--rotate-issuer", is_flag=True, help="Replace the issuer; the anchor stays.")
@click.option(
    "--anchor-key",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The anchor's key for --rotate-issuer, where it is kept elsewhere.",
)
def certificates_command(
    directory: Path, days: int, anchor_days: int, rotate_issuer: bool, anchor_key: Path | None
) -> None:
    """Make the mesh's trust anchor and its issuer, or a new issuer. Prints no key."""
    if rotate_issuer:
        chain = certs.rotate_issuer(directory, days=days, anchor_key=anchor_key)
        say(f"a new issuer is in {directory}, valid until {chain.issuer_end.date()}")
        say("next: make mesh")
        return
    if anchor_key:
        raise ChopstickError("--anchor-key is of use with --rotate-issuer only", "Leave it away.")
    chain = certs.make(directory, days=days, anchor_days=anchor_days)
    say(
        f"{directory} holds the trust anchor (until {chain.anchors_end.date()})"
        f" and the issuer (until {chain.issuer_end.date()})"
    )
    say(
        f"Move {chain.path(certs.ANCHOR_KEY)} to a safe place that no cluster reaches:"
        " only the next issuer needs it. Who has it can be anybody in the mesh."
    )


def _plan(
    ha: bool, wanted: str | None, certificates: Path | None, charts: Path | None
) -> tuple[install.Plan, ChopstickError | None]:
    """What to do, as far as it is known without the cluster."""
    pinned = versions.read()
    tool = tools.find(wanted, pinned, charts)
    chain, chain_error = None, None
    try:
        chain = certs.read(certificates or certs.DIRECTORY)
    except ChopstickError as error:
        # One that was asked for must be right; the usual place may be empty at an upgrade.
        if certificates or certs.DIRECTORY.exists():
            raise
        chain_error = error
    return install.Plan(pinned, tool, tools.Wishes(ha, chain=chain)), chain_error


def _preflight(plan: install.Plan, chain_error: ChopstickError | None) -> preflight.Situation:
    with timed(f"preflight in context {_context()}"):
        situation = install.gather(plan, chain_error)
        findings = preflight.run(situation)
    preflight.require(findings)
    return situation


def _context() -> str:
    return output(
        [*KUBECTL, "config", "current-context"], "Choose a cluster: kubectl config use-context NAME"
    ).strip()


if __name__ == "__main__":
    try:
        main(prog_name="python -m scripts.mesh")
    except ChopstickError as error:
        tell(error)
        sys.exit(error.exit_code)
