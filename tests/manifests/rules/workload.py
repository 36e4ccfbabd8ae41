"""The model server's own: pods, probes, configuration, images, disruption."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml

from tests.manifests import restricted
from tests.manifests.rules.stack import Stack, name_of
from tests.support.skips import ROOT

# The longest deadline that a client may use, in seconds (docs/operations.md).
DEADLINE = 5
# What is left for the last answer's way back.
MARGIN = 2
# gRPC ends a connection up to a tenth after its age (gRFC A9).
JITTER = 1.1

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SERVING = yaml.safe_load((ROOT / "versions.yaml").read_text())["cluster"]["tensorflow-serving"][
    "version"
]
# Images whose tag is known without the overlay. Every other one holds a model, and its version.
PINNED = {
    "chopstick-embedded": PROJECT,
    "chopstick-health": PROJECT,
    "chopstick-tools": PROJECT,
    "tensorflow/serving": SERVING,
}
LABELS = ("app.kubernetes.io/part-of",)
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def grace_is_what_shutdown_adds_up_to(stack: Stack) -> Iterator[str]:
    """Every pod takes its whole grace period to end, so that it is no longer than it must be."""
    sleep = stack.server["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace, sum_ = stack.pod["terminationGracePeriodSeconds"], sleep + DEADLINE + MARGIN
    if grace != sum_:
        yield f"grace period {grace}, but preStop {sleep} + {DEADLINE} + {MARGIN} = {sum_}"


def connections_end_before_the_pod(stack: Stack) -> Iterator[str]:
    """The oldest connection is gone when the sleep ends, its last request before SIGKILL.

    In a mesh, callers leave a pod by themselves (`mesh.connections_do_not_age`).
    """
    if stack.injected:
        return
    given = dict(
        item.split("=") for item in stack.flags["grpc_channel_arguments"].split(",") if item
    )
    if "grpc.max_connection_age_ms" not in given:
        yield "connections never end"
        return
    age = int(given["grpc.max_connection_age_ms"]) / 1000 * JITTER
    sleep = stack.server["lifecycle"]["preStop"]["sleep"]["seconds"]
    if age >= sleep:
        yield f"a connection lives {age:g} s, longer than the preStop sleep of {sleep}"
    last = int(given["grpc.max_connection_age_grace_ms"]) / 1000
    if last < DEADLINE:
        yield f"an aged connection's requests get {last:g} s, deadlines are up to {DEADLINE}"


def probes_differ(stack: Stack) -> Iterator[str]:
    """Three probes, three questions, and time enough for a killed sidecar to be back."""
    asked = [
        str(stack.server[probe].get(way))
        for probe in PROBES
        for way in ("httpGet", "tcpSocket", "grpc")
        if probe in stack.server and way in stack.server[probe]
    ]
    if len(asked) != len(PROBES):
        yield f"server has {len(asked)} probes, not {len(PROBES)}"
    if len(set(asked)) != len(asked):
        yield f"two probes of server ask the same: {asked}"
    health = stack.containers.get("health")
    if not health:
        return
    if patience(stack.server["readinessProbe"]) < 6:
        yield "readiness gives a restarted sidecar less than 6 s"
    if patience(health["livenessProbe"]) >= patience(stack.server["livenessProbe"]):
        yield "a silent sidecar costs the server its life: its own liveness must come first"
    if health["startupProbe"]["httpGet"]["path"] != "/healthz":
        yield "the sidecar's startup probe waits for the server, which waits for the sidecar"


def patience(probe: dict[str, Any]) -> int:
    """How many seconds of failures a probe takes."""
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def a_rollout_waits_for_a_slow_start(stack: Stack) -> Iterator[str]:
    """A pod that may still start is no failed rollout."""
    budget = patience(stack.server.get("startupProbe", {}))
    deadline = stack.deployment.get("progressDeadlineSeconds", 600)
    if deadline <= budget:
        yield f"progressDeadlineSeconds {deadline}, but a pod may start for {budget} s"


def a_rollout_takes_no_pod_away_first(stack: Stack) -> Iterator[str]:
    """The old pod goes when a new one is ready."""
    if stack.deployment["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
        yield "maxUnavailable is not 0"


def threads_are_the_cpu_limit(stack: Stack) -> Iterator[str]:
    """TensorFlow's own choice is the node's CPUs."""
    limit = stack.server["resources"]["limits"].get("cpu", "")
    if not re.fullmatch(r"[1-9]\d*", limit):
        yield f"the CPU limit of server is {limit!r}, which is no whole number of threads"
    variables = {item["name"]: item for item in stack.server.get("env", [])}
    for flag in ("tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"):
        name = stack.flags.get(flag, "").removeprefix("$(").removesuffix(")")
        source = variables.get(name, {}).get("valueFrom", {}).get("resourceFieldRef", {})
        # A divisor would make it another number.
        if source != {"containerName": "server", "resource": "limits.cpu"}:
            yield f"--{flag}={stack.flags.get(flag)} is not the CPU limit"


def every_container_has_requests_and_limits(stack: Stack) -> Iterator[str]:
    """Of all three resources, or the node decides who is evicted."""
    for name, container in stack.containers.items():
        for part in ("requests", "limits"):
            missing = {"cpu", "memory", "ephemeral-storage"} - container["resources"][part].keys()
            if missing:
                yield f"{name} has no {part} of {', '.join(sorted(missing))}"


def volumes_fit_into_the_limits(stack: Stack) -> Iterator[str]:
    """What is written to an emptyDir counts as the containers' ephemeral storage."""
    room = sum(quantity(item["resources"]["limits"]["ephemeral-storage"]) for item in stack.main)
    written = 0
    for volume in stack.pod.get("volumes", []):
        if "emptyDir" in volume:
            if "sizeLimit" not in volume["emptyDir"]:
                yield f"volume {volume['name']} has no sizeLimit"
                return
            written += quantity(volume["emptyDir"]["sizeLimit"])
    if written > room:
        yield f"the volumes may hold {written} bytes, the pod's limit is {room}"


def quantity(text: str) -> int:
    """The bytes of a Kubernetes quantity with a binary suffix."""
    number, suffix = re.fullmatch(r"(\d+)(Ki|Mi|Gi|)", text).groups()
    return int(number) * 1024 ** ("", "Ki", "Mi", "Gi").index(suffix)


def the_autoscaler_owns_replicas(stack: Stack) -> Iterator[str]:
    """The number is in one place, and applying anything never resets it (docs/adr/0006)."""
    if "replicas" in stack.deployment:
        yield f"the Deployment sets replicas: {stack.deployment['replicas']}"
    spec = stack.one("HorizontalPodAutoscaler").get("spec")
    if not spec:
        yield "there is no HorizontalPodAutoscaler, or more than one"
        return
    target = spec["scaleTargetRef"]
    if (target["kind"], target["name"]) != ("Deployment", name_of(stack.one("Deployment"))):
        yield f"the autoscaler is for {target['kind']} {target['name']}"
    if spec["maxReplicas"] < spec["minReplicas"]:
        yield f"maxReplicas {spec['maxReplicas']} is below minReplicas {spec['minReplicas']}"
    if spec["maxReplicas"] > spec["minReplicas"]:
        kinds = [metric["type"] for metric in spec.get("metrics", [])]
        if kinds != ["ContainerResource"]:
            yield f"it scales by {kinds}, which an injected sidecar breaks"


def the_budget_is_below_the_minimum(stack: Stack) -> Iterator[str]:
    """A drain takes fewer pods than there are; a single pod has no budget."""
    budgets = stack.of("PodDisruptionBudget")
    if stack.minimum > 1 and len(budgets) != 1:
        yield f"{len(budgets)} disruption budgets for {stack.minimum} replicas"
    for budget in budgets:
        allowed = budget["spec"].get("maxUnavailable")
        if not isinstance(allowed, int) or not 0 < allowed < stack.minimum:
            yield f"the budget lets {allowed} of at least {stack.minimum} go"
        if budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield "a pod that is not healthy holds up a drain"


def a_drain_comes_to_an_end(stack: Stack) -> Iterator[str]:
    """Spread over nodes strictly, not counting cordoned ones; over zones where there are some."""
    spread = {item["topologyKey"]: item for item in stack.pod["topologySpreadConstraints"]}
    nodes = spread.get("kubernetes.io/hostname", {})
    if (nodes.get("whenUnsatisfiable"), nodes.get("nodeTaintsPolicy")) != (
        "DoNotSchedule",
        "Honor",
    ):
        yield "pods are not spread over the nodes that take some"
    zones = spread.get("topology.kubernetes.io/zone", {})
    if zones.get("whenUnsatisfiable") != "ScheduleAnyway":
        yield "pods are not spread over zones, or wait for one"


def every_mounted_key_exists(stack: Stack) -> Iterator[str]:
    """What a pod takes from a ConfigMap is in it: volumes, single keys, files in flags, envFrom."""
    maps = {name_of(item): item.get("data", {}) for item in stack.of("ConfigMap")}
    mounts = {
        volume["name"]: volume["configMap"]
        for volume in stack.pod.get("volumes", [])
        if "configMap" in volume
    }
    for volume, source in mounts.items():
        if source["name"] not in maps:
            yield f"volume {volume}: there is no ConfigMap {source['name']}"
        for item in source.get("items", []):
            if item["key"] not in maps.get(source["name"], {}):
                yield f"volume {volume}: ConfigMap {source['name']} has no key {item['key']}"
    for name, container in stack.containers.items():
        for source in container.get("envFrom", []):
            if source["configMapRef"]["name"] not in maps:
                yield f"{name}: there is no ConfigMap {source['configMapRef']['name']}"
        files = {
            f"{mount['mountPath']}/{key}"
            for mount in container.get("volumeMounts", [])
            if mount["name"] in mounts
            for key in maps.get(mounts[mount["name"]]["name"], {})
        }
        for flag, value in stack.flags.items() if name == "server" else ():
            if flag.endswith("_file") and value not in files:
                yield f"--{flag}={value} is in no ConfigMap that is mounted"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in {item["name"] for item in stack.pod.get("volumes", [])}:
                yield f"{name} mounts {mount['name']}, which is no volume"


def every_variable_is_set(stack: Stack) -> Iterator[str]:
    """`$(NAME)` of an unknown name stays as it is, without an error."""
    known = set(stack.model) | {item["name"] for item in stack.server.get("env", [])}
    for name in re.findall(r"\$\((\w+)\)", " ".join(stack.server["args"])):
        if name not in known:
            yield f"$({name}) is not set"


def no_configuration_is_left_over(stack: Stack) -> Iterator[str]:
    """A ConfigMap that nobody reads is one that somebody thinks is read."""
    text = str(stack.pod)
    for item in stack.of("ConfigMap"):
        if repr(name_of(item)) not in text:
            yield f"nobody reads ConfigMap {name_of(item)}"


def services_reach_containers(stack: Stack) -> Iterator[str]:
    """Ports by name, inside the cluster only, and in a protocol that every mesh knows."""
    ports = {port["name"] for item in stack.containers.values() for port in item.get("ports", [])}
    for service in stack.of("Service"):
        name, spec = name_of(service), service["spec"]
        if spec.get("type", "ClusterIP") != "ClusterIP" or spec.get("clusterIP") == "None":
            yield f"Service {name} is a {spec.get('type')}, clusterIP {spec.get('clusterIP')}"
        for port in spec["ports"]:
            if port.get("targetPort") not in ports:
                yield f"Service {name}: no container names its port {port.get('targetPort')}"
            if "nodePort" in port:
                yield f"Service {name}: nodePort {port['nodePort']}"
            if port["name"] == "grpc" and port.get("appProtocol") != "kubernetes.io/h2c":
                yield f"Service {name}: appProtocol {port.get('appProtocol')} is opaque to Linkerd"


def probes_reach_containers(stack: Stack) -> Iterator[str]:
    """A named port is looked for in its own container, a number anywhere in the pod."""
    numbers = {
        port["containerPort"]
        for item in stack.containers.values()
        for port in item.get("ports", [])
    }
    for name, container in stack.containers.items():
        own = {port["name"] for port in container.get("ports", [])}
        probes = {probe: container[probe] for probe in PROBES if probe in container}
        probes |= container.get("lifecycle", {})
        for probe, action in probes.items():
            for way in ("httpGet", "tcpSocket", "grpc"):
                port = action.get(way, {}).get("port")
                if port is not None and port not in own | numbers:
                    yield f"{name}: {probe} asks port {port}, which nobody listens on"


def hooks_pass_a_mesh(stack: Stack) -> Iterator[str]:
    """No hook comes over the network, where default deny refuses it; the sidecar's drains it."""
    for name, container in stack.containers.items():
        for hook, action in container.get("lifecycle", {}).items():
            for way in ("httpGet", "tcpSocket"):
                if way in action:
                    yield f"{name}: {hook} is {way}, and a mesh lets the kubelet probe alone"
    if "health" in stack.containers:
        hook = stack.containers["health"].get("lifecycle", {}).get("preStop", {})
        command = hook.get("exec", {}).get("command", [])
        if command[1:] != ["-m", "serving.health", "drain"]:
            yield f"health: preStop is {command}, so that readiness lasts until the server is gone"


def selectors_stay(stack: Stack) -> Iterator[str]:
    """A selector finds the pods, and holds nothing that a new version would change."""
    labels = stack.deployment["template"]["metadata"]["labels"]
    selectors = {
        "Deployment": stack.deployment["selector"]["matchLabels"],
        **{f"Service {name_of(item)}": item["spec"]["selector"] for item in stack.of("Service")},
        **{
            f"PodDisruptionBudget {name_of(item)}": item["spec"]["selector"]["matchLabels"]
            for item in stack.of("PodDisruptionBudget")
        },
        **{
            f"spread over {item['topologyKey']}": item["labelSelector"]["matchLabels"]
            for item in stack.pod["topologySpreadConstraints"]
        },
    }
    for owner, selector in selectors.items():
        if not selector or not selector.items() <= labels.items():
            yield f"{owner} selects {selector}, the pods have {labels}"
        for key in selector:
            if "version" in key or key.endswith("instance"):
                yield f"{owner} selects by {key}"
    if labels.get("track") != "stable":
        yield f"the pods' track is {labels.get('track')}"


def nothing_is_unlabelled(stack: Stack) -> Iterator[str]:
    """Everything, pods included, says what it belongs to."""
    pods = stack.deployment["template"]
    for item in [*stack.objects, {"kind": "pod template", **pods}]:
        for label in LABELS:
            if label not in item["metadata"].get("labels", {}):
                yield f"{item['kind']} {item['metadata'].get('name', '')} has no label {label}"


def images_are_the_ones_that_are_meant(stack: Stack) -> Iterator[str]:
    """A tag each, never `latest`; ours of this version, the model's of the one to be served."""
    by_volume = any(
        "image" in item or "persistentVolumeClaim" in item for item in stack.pod["volumes"]
    )
    images = {name: item["image"] for name, item in stack.containers.items()}
    images |= {
        f"volume {item['name']}": item["image"]["reference"]
        for item in stack.pod["volumes"]
        if "image" in item
    }
    for where, image in images.items():
        name, tag = split_image(image)
        if tag in {"", "latest"}:
            yield f"{where}: {image} has no tag that says what it is"
        # A registry and a path may come before the name, by an overlay's `images:`.
        pinned = next((PINNED[key] for key in PINNED if f"/{name}".endswith(f"/{key}")), None)
        expected = pinned or stack.model["MODEL_VERSION"]
        if tag != expected:
            yield f"{where}: {image} is not version {expected!r}"
    volumes = {item["name"]: item for item in stack.pod["volumes"]}
    pinned_server = any(
        f"/{split_image(stack.server['image'])[0]}".endswith(f"/{k}") for k in PINNED
    )
    if by_volume != pinned_server:
        yield f"{stack.server['image']} and the volumes {sorted(volumes)}: where is the model from?"
    if not stack.model["MODEL_VERSION"] and not any(
        "persistentVolumeClaim" in item for item in volumes.values()
    ):
        yield "MODEL_VERSION is empty, but there is one version in the image"


def split_image(image: str) -> tuple[str, str]:
    """An image's name with its registry, and its tag; a digest behind the tag is left out."""
    name, _, _ = image.partition("@")
    head, _, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return (f"{head}/{last}" if head else last), tag


def images_run_where_they_are_sent(stack: Stack) -> Iterator[str]:
    """TensorFlow Serving is for amd64 alone; what is not is marked."""
    embedded = "chopstick.dev/server" in stack.deployment["template"]["metadata"].get(
        "annotations", {}
    )
    architecture = (stack.pod.get("nodeSelector") or {}).get("kubernetes.io/arch")
    if not embedded and architecture != "amd64":
        yield f"TensorFlow Serving is sent to {architecture or 'any'} nodes"
    if embedded and architecture:
        yield f"the embedded server is kept to {architecture}"
    if embedded and split_image(stack.server["image"])[0].endswith("tensorflow/serving"):
        yield "embedded-server was not the last component: the image is TensorFlow Serving's"


def pods_are_restricted(stack: Stack) -> Iterator[str]:
    """By the namespace's label and by the pods themselves; one writable root at most, no token."""
    labels = stack.one("Namespace").get("metadata", {}).get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce restricted"
    yield from restricted.violations(stack.pod)
    for name, container in stack.containers.items():
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            yield f"container {name}: its root file system is writable"
        user = {**stack.pod["securityContext"], **container["securityContext"]}.get("runAsUser")
        if user in {None, 0, 2102}:
            yield f"container {name}: runs as {user}"
    accounts = {f"ServiceAccount {name_of(item)}": item for item in stack.of("ServiceAccount")}
    for owner, spec in {"pods": stack.pod, **accounts}.items():
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{owner}: a token is mounted"
    # Nobody's but theirs: it is an identity.
    if stack.pod.get("serviceAccountName") != name_of(stack.one("Deployment")):
        yield f"the pods run under the ServiceAccount {stack.pod.get('serviceAccountName')}"
    if not stack.named("ServiceAccount", name_of(stack.one("Deployment"))):
        yield "the ServiceAccount of the pods is not here"


def everything_is_in_one_namespace(stack: Stack) -> Iterator[str]:
    """What an overlay makes is in the namespace that it makes."""
    for item in stack.objects:
        place = item["metadata"].get("namespace")
        # A GatewayClass is in none, but Kustomize doesn't know, and the API server doesn't mind.
        if item["kind"] != "Namespace" and place != stack.home:
            yield f"{item['kind']} {name_of(item)} is in {place}"


def versions_are_published_before_they_are_polled(stack: Stack) -> Iterator[str]:
    """Whoever publishes at the start has ended before the sidecar publishes, too."""
    order = [item["name"] for item in stack.pod.get("initContainers", [])]
    if "publish" in order and order != ["publish", "health"]:
        yield f"init containers run in the order {order}"
    for name in {"publish", "health"} & set(order) if "publish" in order else ():
        mounts = {item["name"]: item for item in stack.containers[name]["volumeMounts"]}
        if not mounts.get("volume", {}).get("readOnly") or mounts["models"].get("readOnly"):
            yield f"{name} must read the volume and write /models"


RULES = (
    grace_is_what_shutdown_adds_up_to,
    connections_end_before_the_pod,
    probes_differ,
    a_rollout_waits_for_a_slow_start,
    a_rollout_takes_no_pod_away_first,
    threads_are_the_cpu_limit,
    every_container_has_requests_and_limits,
    volumes_fit_into_the_limits,
    the_autoscaler_owns_replicas,
    the_budget_is_below_the_minimum,
    a_drain_comes_to_an_end,
    every_mounted_key_exists,
    every_variable_is_set,
    no_configuration_is_left_over,
    services_reach_containers,
    probes_reach_containers,
    hooks_pass_a_mesh,
    selectors_stay,
    nothing_is_unlabelled,
    images_are_the_ones_that_are_meant,
    images_run_where_they_are_sent,
    pods_are_restricted,
    everything_is_in_one_namespace,
    versions_are_published_before_they_are_polled,
)
