"""Every overlay and every combination keeps the rules; a manifest that breaks one is caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import rules
from tests.manifests.build import (
    ALWAYS,
    CHOICES,
    COMPONENTS,
    EXCLUSIVE,
    LINKERD,
    MESH,
    OVERLAYS,
    BuildError,
    combine,
    combined,
    meshed,
    named,
    overlay,
    sensible,
    subsets,
)
from tests.manifests.rules import workload
from tests.manifests.schemas import check
from tests.manifests.test_build import VERSIONS
from tests.support.skips import ROOT


def test_every_component_is_among_the_choices() -> None:
    assert sorted([ALWAYS, *CHOICES]) == COMPONENTS
    there = (path.parent.name for path in LINKERD.glob("*/kustomization.yaml"))
    assert sorted(MESH) == sorted(name for name in there if name != "control-plane")


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_keeps_the_rules(name: str) -> None:
    assert rules.findings(overlay(name)) == []


@pytest.mark.parametrize("subset", [*subsets(), *meshed()], ids=named)
def test_a_combination_keeps_the_rules_and_fits_the_schemas(subset: tuple[str, ...]) -> None:
    objects = combined(subset)
    assert rules.findings(objects) == []
    for item in objects:
        for version in VERSIONS:
            check(item, version)


def test_combinations_leave_out_only_what_is_named() -> None:
    assert len(subsets()) == 40
    # 30 of the mesh alone: routes or none, a policy, audited, or none, and five ways of ingress.
    assert len([subset for subset in meshed() if set(subset) <= MESH.keys()]) == 30
    assert all(why and not sensible(pair) for pair, why in EXCLUSIVE.items())


@pytest.mark.parametrize("component", [*CHOICES, *MESH])
def test_a_component_goes_with_another_model(component: str, tmp_path: Path) -> None:
    """No component has the chopstick model's name or version in it."""
    together = [component]
    while needed := MESH.get(together[0]):
        together[:0] = needed
    model = {
        "name": "chopstick-model",
        "behavior": "merge",
        "literals": ["MODEL_NAME=other", "MODEL_VERSION=7"],
    }
    images = [
        {"name": name, "newName": "registry.example/team/other", "newTag": "7"}
        for name in ("chopstick-classifier", "chopstick-model")
    ]
    objects = combine(tmp_path, together, configMapGenerator=[model], images=images)
    assert rules.findings(objects) == []
    deployment = yaml.safe_dump(rules.Stack(objects).pod)
    assert ("/v1/models/other/versions/7/metadata" in deployment) == (component == "no-sidecar")
    assert "MODEL_VERSION/" not in deployment


@pytest.mark.parametrize("last", [name for name in CHOICES if name != "embedded-server"])
def test_the_order_of_components_does_not_matter_but_for_the_last(
    last: str, tmp_path: Path
) -> None:
    for first in CHOICES[:-1]:
        if first != last and sensible((first, last)):
            there = combine(tmp_path / first / "there", (first, last))
            assert combine(tmp_path / first / "back", (last, first)) == there


def test_autoscaling_leaves_the_minimum_as_it_was(tmp_path: Path) -> None:
    """Adding it to what runs takes no pod away; tests/cluster does it under load."""
    before = rules.Stack(combine(tmp_path / "before"))
    after = rules.Stack(combine(tmp_path / "after", ["autoscaling"]))
    assert after.minimum == before.minimum == 3
    assert after.one("HorizontalPodAutoscaler")["spec"]["maxReplicas"] > after.minimum
    assert after.deployment == before.deployment


# ── broken on purpose ──


def json_patch(*operations: dict[str, Any], kind: str = "Deployment") -> dict[str, Any]:
    return {"patches": [{"target": {"kind": kind}, "patch": yaml.safe_dump(list(operations))}]}


def change(path: str, value: Any, *, kind: str = "Deployment") -> dict[str, Any]:
    return json_patch({"op": "add", "path": path, "value": value}, kind=kind)


def drop(path: str, *, kind: str = "Deployment") -> dict[str, Any]:
    return json_patch({"op": "remove", "path": path}, kind=kind)


POD = "/spec/template/spec"
SERVER = f"{POD}/containers/0"
HEALTH = f"{POD}/initContainers/0"
ARGS = {
    name: index
    for index, name in enumerate(
        item.removeprefix("--").partition("=")[0]
        for item in yaml.safe_load((ROOT / "manifests" / "base" / "deployment.yaml").read_text())[
            "spec"
        ]["template"]["spec"]["containers"][0]["args"]
    )
}


def flag(name: str, value: str) -> dict[str, Any]:
    return json_patch(
        {"op": "replace", "path": f"{SERVER}/args/{ARGS[name]}", "value": f"--{name}={value}"}
    )


# rule: changes of which each alone has to be found by it.
BROKEN: dict[str, list[dict[str, Any]]] = {
    "grace_is_what_shutdown_adds_up_to": [
        change(f"{POD}/terminationGracePeriodSeconds", 30),
        change(f"{SERVER}/lifecycle/preStop/sleep/seconds", 10),
    ],
    "connections_end_before_the_pod": [
        flag(
            "grpc_channel_arguments",
            "grpc.max_connection_age_ms=11000,grpc.max_connection_age_grace_ms=5000",
        ),
        flag(
            "grpc_channel_arguments",
            "grpc.max_connection_age_ms=8000,grpc.max_connection_age_grace_ms=4000",
        ),
        flag("grpc_channel_arguments", ""),
    ],
    "probes_differ": [
        change(f"{SERVER}/livenessProbe/httpGet/path", "/readyz"),
        drop(f"{SERVER}/startupProbe"),
        change(f"{SERVER}/readinessProbe/failureThreshold", 3),
        change(f"{HEALTH}/livenessProbe/periodSeconds", 10),
        change(f"{HEALTH}/startupProbe/httpGet/path", "/readyz"),
    ],
    "a_rollout_waits_for_a_slow_start": [
        change("/spec/progressDeadlineSeconds", 300),
        change(f"{SERVER}/startupProbe/failureThreshold", 300),
    ],
    "a_rollout_takes_no_pod_away_first": [change("/spec/strategy/rollingUpdate/maxUnavailable", 1)],
    "threads_are_the_cpu_limit": [
        flag("tensorflow_intra_op_parallelism", "4"),
        change(f"{SERVER}/resources/limits/cpu", "1500m"),
        change(f"{SERVER}/env/0/valueFrom/resourceFieldRef/resource", "requests.cpu"),
        change(f"{SERVER}/env/0/valueFrom/resourceFieldRef/divisor", "1m"),
    ],
    "every_container_has_requests_and_limits": [
        drop(f"{SERVER}/resources/limits/memory"),
        drop(f"{HEALTH}/resources/requests/ephemeral-storage"),
    ],
    "volumes_fit_into_the_limits": [
        change(f"{POD}/volumes/1/emptyDir", {}),
        change(f"{POD}/volumes/1/emptyDir/sizeLimit", "1Gi"),
    ],
    "the_autoscaler_owns_replicas": [
        change("/spec/replicas", 3),
        change("/spec/scaleTargetRef/name", "other", kind="HorizontalPodAutoscaler"),
        change("/spec/maxReplicas", 2, kind="HorizontalPodAutoscaler"),
        change("/spec/maxReplicas", 9, kind="HorizontalPodAutoscaler"),
    ],
    "the_budget_is_below_the_minimum": [
        change("/spec/maxUnavailable", 3, kind="PodDisruptionBudget"),
        change("/spec/maxUnavailable", "50%", kind="PodDisruptionBudget"),
        change("/spec/minReplicas", 1, kind="HorizontalPodAutoscaler"),
        drop("/spec/unhealthyPodEvictionPolicy", kind="PodDisruptionBudget"),
    ],
    "a_drain_comes_to_an_end": [
        drop(f"{POD}/topologySpreadConstraints/0/nodeTaintsPolicy"),
        change(f"{POD}/topologySpreadConstraints/0/whenUnsatisfiable", "ScheduleAnyway"),
        change(f"{POD}/topologySpreadConstraints/1/whenUnsatisfiable", "DoNotSchedule"),
    ],
    "every_mounted_key_exists": [
        flag("monitoring_config_file", "/etc/tfs/monitor.config"),
        change(f"{POD}/volumes/0/configMap/name", "other"),
        change(f"{POD}/volumes/0/configMap/items", [{"key": "other", "path": "other"}]),
        change(f"{SERVER}/volumeMounts/1/name", "other"),
        change(f"{HEALTH}/envFrom/0/configMapRef/name", "other"),
    ],
    "every_variable_is_set": [flag("model_name", "$(MODEL)")],
    "no_configuration_is_left_over": [
        {"configMapGenerator": [{"name": "other", "literals": ["a=b"]}]}
    ],
    "services_reach_containers": [
        change("/spec/ports/0/targetPort", "http", kind="Service"),
        change("/spec/ports/0/targetPort", 8500, kind="Service"),
        change("/spec/type", "NodePort", kind="Service"),
        change("/spec/clusterIP", "None", kind="Service"),
        change("/spec/ports/0/nodePort", 30000, kind="Service"),
        change("/spec/ports/0/appProtocol", "grpc", kind="Service"),
    ],
    "probes_reach_containers": [
        change(f"{SERVER}/readinessProbe/httpGet/port", "probe"),
        change(f"{SERVER}/readinessProbe/httpGet/port", 8505),
    ],
    "hooks_pass_a_mesh": [
        change(f"{HEALTH}/lifecycle/preStop", {"httpGet": {"path": "/drain", "port": "probe"}}),
        change(f"{HEALTH}/lifecycle/preStop/exec/command/3", "publish"),
        change(f"{SERVER}/lifecycle/postStart", {"httpGet": {"path": "/", "port": "rest"}}),
        drop(f"{HEALTH}/lifecycle"),
    ],
    "selectors_stay": [
        change("/spec/selector/track", "canary", kind="Service"),
        change("/spec/selector/matchLabels/app.kubernetes.io~1version", "1"),
        change(f"{POD}/topologySpreadConstraints/0/labelSelector/matchLabels", {"app": "x"}),
        change("/spec/template/metadata/labels/track", "canary"),
        {"labels": [{"pairs": {"app.kubernetes.io/instance": "x"}, "includeSelectors": True}]},
    ],
    "nothing_is_unlabelled": [
        drop("/metadata/labels", kind="Service"),
        drop("/spec/template/metadata/labels/app.kubernetes.io~1part-of"),
    ],
    "images_are_the_ones_that_are_meant": [
        {"images": [{"name": "chopstick-classifier", "newTag": "latest"}]},
        {"images": [{"name": "chopstick-classifier", "newTag": "2"}]},
        {"images": [{"name": "chopstick-health", "newTag": "0.0.1"}]},
        {"images": [{"name": "chopstick-classifier", "newName": "tensorflow/serving"}]},
        change(f"{SERVER}/image", "chopstick-classifier"),
        {
            "configMapGenerator": [
                {"name": "chopstick-model", "behavior": "merge", "literals": ["MODEL_VERSION=2"]}
            ]
        },
        {
            "configMapGenerator": [
                {"name": "chopstick-model", "behavior": "merge", "literals": ["MODEL_VERSION="]}
            ]
        },
    ],
    "images_run_where_they_are_sent": [
        drop(f"{POD}/nodeSelector"),
        change("/spec/template/metadata/annotations", {"chopstick.dev/server": "embedded"}),
    ],
    "pods_are_restricted": [
        drop("/metadata/labels/pod-security.kubernetes.io~1enforce", kind="Namespace"),
        drop(f"{SERVER}/securityContext/readOnlyRootFilesystem"),
        change(f"{SERVER}/securityContext/runAsUser", 2102),
        drop(f"{POD}/automountServiceAccountToken"),
        change("/automountServiceAccountToken", True, kind="ServiceAccount"),
        change(f"{POD}/serviceAccountName", "default"),
        # What the standard itself asks for.
        change(f"{POD}/hostNetwork", True),
        change(f"{POD}/volumes/1", {"name": "tmp", "hostPath": {"path": "/var"}}),
        change(f"{POD}/securityContext/sysctls", [{"name": "a", "value": "b"}]),
        change(f"{SERVER}/securityContext/privileged", True),
        drop(f"{HEALTH}/securityContext/allowPrivilegeEscalation"),
        drop(f"{POD}/securityContext/runAsNonRoot"),
        change(f"{SERVER}/securityContext/runAsUser", 0),
        change(f"{POD}/securityContext/seccompProfile/type", "Unconfined"),
        change(f"{SERVER}/securityContext/capabilities/drop", ["NET_RAW"]),
        change(f"{SERVER}/securityContext/capabilities/add", ["NET_ADMIN"]),
        change(f"{SERVER}/ports/0/hostPort", 8500),
        change(f"{SERVER}/securityContext/procMount", "Unmasked"),
    ],
    "everything_is_in_one_namespace": [
        # The namespace of the kustomization, which comes last, would put it right again.
        {"namespace": None}
    ],
    "versions_are_published_before_they_are_polled": [],
}
CASES = [
    pytest.param(rule, broken, id=f"{rule}-{number}")
    for rule, all_of_them in BROKEN.items()
    for number, broken in enumerate(all_of_them)
]


@pytest.mark.parametrize(("rule", "broken"), CASES)
def test_a_broken_manifest_is_caught(rule: str, broken: dict[str, Any], tmp_path: Path) -> None:
    found = rules.findings(combine(tmp_path, **broken))
    assert [item for item in found if item.startswith(f"{rule}: ")], found


def test_publishing_in_the_wrong_order_or_place_is_caught(tmp_path: Path) -> None:
    containers = "/spec/template/spec/initContainers"
    for number, broken in enumerate(
        [
            json_patch({"op": "move", "from": f"{containers}/0", "path": f"{containers}/1"}),
            change(f"{containers}/1/volumeMounts/0/readOnly", True),
            drop(f"{containers}/0/volumeMounts/1/readOnly"),
        ]
    ):
        found = rules.findings(combine(tmp_path / str(number), ["model-volume"], **broken))
        assert [item for item in found if item.startswith("versions_are_published")], found


def test_embedded_server_before_what_it_replaces_is_caught(tmp_path: Path) -> None:
    found = rules.findings(combine(tmp_path, ("embedded-server", "model-volume")))
    assert [item for item in found if "was not the last component" in item], found


@pytest.mark.parametrize(
    ("components", "rule"),
    [
        (("inject", "ingress", "policy"), "the_ingress_is_a_caller"),
        (("inject", "traffic", "ingress-jwt", "ingress"), None),
        (("traffic",), "pods_are_in_the_mesh"),
        (("no-sidecar", "inject", "policy"), "the_kubelet_needs_no_leave"),
    ],
)
def test_components_of_the_mesh_in_the_wrong_order_or_company_are_caught(
    components: tuple[str, ...], rule: str | None
) -> None:
    if rule is None:
        with pytest.raises(BuildError):
            combined(components)
    else:
        assert [item for item in rules.findings(combined(components)) if item.startswith(rule)]


def test_every_rule_is_broken_once() -> None:
    assert list(BROKEN) == [rule.__name__ for rule in workload.RULES]
