"""The cases of the mesh suite and what they are given: prod behind Linkerd, and callers of each kind.

    @case("balance", "…")
    def balance(context: MeshContext) -> None:
        stack = context.serving()                       # prod, three meshed pods ready
        with context.without_failure(stack, "rollout"): # load of meshed, named callers
            ...

Everything that `tests.cluster.suite.Context` offers is there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.cluster.cluster import Cluster
from tests.cluster.stack import OVERLAYS, Stack
from tests.cluster.suite import FAIL, PASS, SKIP, Case, Context, Registry, Size, Skip
from tests.cluster.traffic import Caller, Clients
from tests.mesh import proxy
from tests.mesh.ingress import OUTSIDE, Ingress
from tests.mesh.stack import VARIATIONS, MeshedStack

__all__ = [
    "CI", "FAIL", "FULL", "PASS", "REGISTRY", "SKIP", "Case", "MeshContext", "Size", "Skip", "case",
]  # fmt: skip

PROD = "chopstick"
BESIDE = "e2e-beside"
IDLE = "e2e-idle"
# Two cores carry three nodes, a proxy beside each server and caller, and the callers: at 200 a second
# they, not what is under test, make the latency. At 150 a FULL load lasts as long as a rolling update.
CI = Size("ci", 1_500, 100.0)
FULL = Size("full", 10_000, 150.0)


class MeshContext(Context):
    """What a case of the mesh suite works with."""

    def __init__(self, cluster: Cluster, size: Size, say: Callable[[str], None]) -> None:
        super().__init__(cluster, size, say)
        self.prod = MeshedStack(cluster, PROD, OVERLAYS / "prod")
        """Overlay `prod` as it is in the tree."""
        self.callers = Clients(cluster, PROD, Caller(service_account="model-client"))
        """Named callers: beside prod, meshed by the namespace's annotation, account `model-client`."""
        self.ingress = Ingress(cluster, self.prod)
        """The way in from outside; `ingress.wait_ready()` before its first use."""
        self.plain = Clients(cluster)
        """Unmeshed pods with nothing, for stacks out of the mesh."""
        self.outsiders = self.ingress.outsiders
        """Unmeshed pods with the ingress's CA and API key, for `chopstick` with
        `context.ingress.arguments`."""
        self.lasting = {PROD, OUTSIDE, IDLE, self.plain.namespace}
        self.references: dict[str, float] = {}
        """What cases have measured once for all: p99 in seconds, by what was burnt beside."""
        self._idle = Stack(cluster, IDLE, VARIATIONS / "idle")
        self._others: list[Clients] = []

    @property
    def lasting_stack(self) -> Stack:
        """Prod."""
        return self.prod

    def set_up(self) -> None:
        """Namespace, certificate and keys of prod, then what callers need."""
        self._provide()
        self.callers.delete_all(wait=True)
        self.outsiders.set_up()
        self.plain.set_up()

    def tear_down(self) -> None:
        """Remove prod, with what it has outside its namespace, and the callers."""
        self.prod.remove()
        super().tear_down()

    def baseline(self) -> Stack:
        """Prod as it is in the tree, three meshed pods ready and nothing else; fast if it is so."""
        self._provide()
        return super().baseline()

    def beside(self) -> Stack:
        """Three servers without a mesh on the same nodes, ready; removed after the case."""
        stack = self.stack(BESIDE, VARIATIONS / "beside")
        stack.apply()
        stack.rolled_out()
        stack.wait_ready(3)
        return stack

    def idle(self) -> Stack:
        """Three meshed servers that nobody calls, ready; there until `without_idle`."""
        stack = self._idle
        stack.apply()
        stack.rolled_out()
        stack.wait_ready(3)
        return stack

    def without_idle(self) -> None:
        """Remove what `idle` has made, so that it takes no part in what follows."""
        self._idle.delete()

    def clients(
        self,
        namespace: str,
        service_account: str | None = None,
        inject: bool | None = None,
        host_network: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> Clients:
        """Callers of another kind, ready for `run`, `start` and `traffic`; removed after the case.

        `namespace` is PROD, or one of the case's own (`e2e-…`), which is made; `service_account` is
        made in it if it isn't there. `inject` True or False meshes the pods or keeps them out, None
        leaves that to the namespace. `host_network` needs a namespace of the case's own.
        """
        annotations = {}
        if inject is not None:
            annotations["linkerd.io/inject"] = "enabled" if inject else "disabled"
        marks = {"chopstick.dev/client": "true"} if labels is None else dict(labels)
        caller = Caller(service_account or "", annotations, marks, host_network)
        found = Clients(self.cluster, namespace, caller)
        if namespace not in self.lasting | self.own:
            self.cluster.delete_namespace(namespace)  # what an earlier case, or run, has left
            self.own.add(namespace)
            found.set_up()
        elif service_account:
            found.provide_account()
        self._others.append(found)
        return found

    def proxy_metrics(self, pod: str, namespace: str = PROD) -> list[proxy.Sample]:
        """What a pod's proxy counts now: samples with `.name`, `.labels` and `.value`.

        `proxy.total` and `proxy.by_label` sum them up.
        """
        return proxy.metrics(self.cluster, namespace, pod)

    def clean(self) -> None:
        """Remove what the case has made, without waiting for it."""
        for clients in [self.outsiders, self.plain, *self._others]:
            clients.delete_started()
        self._others.clear()
        super().clean()

    def _provide(self) -> None:
        self.prod.provide_namespace()
        self.ingress.provide_secrets()


REGISTRY: Registry[MeshContext] = Registry()
case = REGISTRY.case
