"""Digests: recorded when pushed, written beside the tags, nothing else touched."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from scripts.images import pin, registry
from scripts.images.registry import Pushed
from scripts.images.stores import Buildah
from serving.errors import ChopstickError

DIGEST, OTHER = f"sha256:{'a1' * 32}", f"sha256:{'b2' * 32}"
CLASSIFIER = Pushed("registry.example/team/chopstick-classifier", "2", DIGEST)
HEALTH = Pushed("registry.example/team/chopstick-health", "0.1.0", OTHER)
PINS = {"chopstick-classifier": CLASSIFIER, "chopstick-health": HEALTH}


class FakeRegistry(Buildah):
    """Takes what is pushed, up to `accepts` images."""

    def __init__(self, accepts: int = 9) -> None:
        self.pushes: list[tuple[str, bool]] = []
        self.accepts = accepts

    def push(self, reference: str, target: str, *, insecure: bool) -> str:
        if len(self.pushes) == self.accepts:
            raise ChopstickError("no more")
        self.pushes.append((target, insecure))
        return DIGEST


def push(store: FakeRegistry, names: Sequence[str], address: str, record: Path) -> list[Pushed]:
    return registry.push(store, [f"docker.io/library/{name}" for name in names], address, record)


# ── push ──


@pytest.mark.parametrize(
    ("address", "insecure"),
    [
        ("registry.example/team", False),
        ("registry.example:5000", False),
        ("127.0.0.1:5000", True),
        ("localhost:5000/a/b", True),
        ("[::1]:5000", True),
        ("localhost.example:5000", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_http_is_for_loopback_alone(address: str, insecure: bool, tmp_path: Path) -> None:
    store = FakeRegistry()
    push(store, ["a:1"], address, tmp_path / "pushed.json")
    assert store.pushes == [(f"{address}/a:1", insecure)]


@pytest.mark.parametrize("address", ["", "https://x", "x/Team", "x/", "x y", "x:port"])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    store = FakeRegistry()
    with pytest.raises(ChopstickError) as caught:
        push(store, ["a:1"], address, tmp_path / "pushed.json")
    assert "REGISTRY=registry.example/team" in caught.value.remedy
    assert store.pushes == []


def test_what_was_pushed_before_a_failure_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "new" / "pushed.json"
    with pytest.raises(ChopstickError, match="no more"):
        push(FakeRegistry(accepts=1), ["a:1", "b:1"], "registry.example", record)
    push(FakeRegistry(), ["a:2"], "registry.example", record)
    assert sorted(registry.recorded(record)) == ["a:1", "a:2"]
    assert registry.recorded(record)["a:2"] == Pushed("registry.example/a", "2", DIGEST)


# ── the text ──

BEFORE = """\
# Production.
kind: Kustomization
images:
  - name: chopstick-classifier # the server
    newTag: "2" # with MODEL_VERSION in model.env
  # the sidecar
  - name: chopstick-health
    newName: old.example/chopstick-health
    digest: sha256:0000 # by make pin
    newTag: 0.1.0

patches: # stays below
  - path: x.yaml
"""
AFTER = f"""\
# Production.
kind: Kustomization
images:
  - name: chopstick-classifier # the server
    newName: registry.example/team/chopstick-classifier
    newTag: "2" # with MODEL_VERSION in model.env
    digest: {DIGEST}
  # the sidecar
  - name: chopstick-health
    newName: registry.example/team/chopstick-health
    digest: {OTHER} # by make pin
    newTag: 0.1.0

patches: # stays below
  - path: x.yaml
"""


def test_digests_are_added_and_all_else_stays() -> None:
    assert pin.edited(BEFORE, PINS) == AFTER
    assert pin.edited(AFTER, PINS) == AFTER


FORMS = {
    "no images": "kind: Kustomization\n",
    "no newline at the end": "kind: Kustomization",
    "one of two": "images:\n  - name: chopstick-classifier\n    newTag: '1' # old\n",
    "one of two, no newline": "images:\n  - name: chopstick-classifier\n    newTag: '1'",
    "not indented": "images:\n- name: chopstick-health\nkind: Kustomization\n",
    "name last": "images:\n  - newTag: '1'\n    name: chopstick-classifier\n",
    "flow entries": "images:\n  - {name: chopstick-classifier, newTag: '1'}\n",
    "somebody else's": "images:\n  - name: nginx\n    newTag: '1'\nkind: Kustomization\n",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_every_way_to_write_it_ends_with_the_same_meaning(text: str) -> None:
    changed = pin.edited(text, PINS)
    body = yaml.safe_load(changed)
    found = {entry["name"]: entry for entry in body.pop("images")}
    for name, wanted in PINS.items():
        assert found.pop(name) == {
            "name": name,
            "newName": wanted.name,
            "newTag": wanted.tag,
            "digest": wanted.digest,
        }
    before = yaml.safe_load(text)
    rest = {entry["name"] for entry in before.pop("images", [])} - set(PINS)
    assert set(found) == rest
    assert body == before
    assert pin.edited(changed, PINS) == changed


def test_a_list_in_one_line_is_refused() -> None:
    with pytest.raises(ChopstickError, match="images:"):
        pin.edited("images: [{name: chopstick-health}]\n", PINS)


@pytest.mark.parametrize(("tag", "written"), [("2", '"2"'), ("1e3", "1e3"), ("0.1.0", "0.1.0")])
def test_a_tag_stays_text(tag: str, written: str) -> None:
    text = pin.edited("kind: x\n", {"a": Pushed("r.example/a", tag, DIGEST)})
    assert f"newTag: {written}\n" in text
    assert yaml.safe_load(text)["images"][0]["newTag"] == tag


# ── the overlay ──


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    def write(path: str, text: str) -> None:
        file = tmp_path / path / pin.FILE
        file.parent.mkdir(parents=True)
        file.write_text(text)

    write(
        "base",
        'images:\n  - {name: chopstick-classifier, newTag: "1"}\n'
        "  - {name: chopstick-health, newTag: 0.1.0}\n",
    )
    write("components/server", "images:\n  - {name: tensorflow/serving, newName: mine}\n")
    write(
        "overlays/prod", "# mine\nresources: [../../base]\ncomponents: [../../components/server]\n"
    )
    write(
        "overlays/two",
        "resources: [../prod]\n"
        "images:\n  - name: chopstick-classifier\n    newName: half-plus-two\n    newTag: '2'\n",
    )
    return tmp_path / "overlays"


PUSHED = {
    "chopstick-classifier:1": Pushed("r.example/chopstick-classifier", "1", DIGEST),
    "chopstick-classifier:2": CLASSIFIER,
    "chopstick-health:0.1.0": HEALTH,
    "half-plus-two:2": Pushed("r.example/half-plus-two", "2", OTHER),
}


def test_an_overlay_is_pinned_at_the_tags_that_its_base_names(overlays: Path) -> None:
    found = pin.pin("prod", PUSHED, overlays)
    assert {name: pinned.tag for name, pinned in found.items()} == {
        "chopstick-classifier": "1",
        "chopstick-health": "0.1.0",
    }
    text = (overlays / "prod" / pin.FILE).read_text()
    assert text.startswith("# mine\nresources: [../../base]\n")
    pin.pin("prod", PUSHED, overlays)
    assert (overlays / "prod" / pin.FILE).read_text() == text


def test_an_overlay_s_own_name_and_tag_win(overlays: Path) -> None:
    assert (
        pin.pin("two", PUSHED, overlays)["chopstick-classifier"].name == "r.example/half-plus-two"
    )
    # Pinned once, the name has a registry in it, and is still found.
    assert pin.pin("two", PUSHED, overlays)["chopstick-classifier"].digest == OTHER


def test_what_was_not_pushed_is_told_and_nothing_is_written(overlays: Path) -> None:
    file = overlays / "prod" / pin.FILE
    before = file.read_text()
    with pytest.raises(ChopstickError, match=r"chopstick-classifier:1.*was not pushed"):
        pin.pin("prod", {"chopstick-health:0.1.0": HEALTH}, overlays)
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["nope", "", "../base"])
def test_an_unknown_overlay_is_told_with_those_that_exist(overlays: Path, name: str) -> None:
    with pytest.raises(ChopstickError) as caught:
        pin.pin(name, PUSHED, overlays)
    assert "There are: prod, two." in caught.value.remedy
