"""Which images there are, and what each is made of."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ChopstickError

ROOT = Path(__file__).resolve().parents[2]
# Everything that is laid out, logged or measured here; `make clean` removes it.
BUILD = ROOT / "build" / "images"
OVERLAYS = ROOT / "manifests" / "overlays"
MODEL_NAME = "chopstick"


@dataclass(frozen=True)
class Image:
    """One image: `dockerfile` relative to the checkout, `summary` for its label.

    `extras` of pyproject.toml are what it installs, with the core less what it `omits`, and less
    `unused`: what its libraries require and never import.
    """

    name: str
    dockerfile: str
    summary: str
    extras: tuple[str, ...] = ()
    omits: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    limit: int | None = None
    """Compressed MB that it may have."""

    @property
    def lock(self) -> str | None:
        """Where its part of requirements.lock is; None for an image that installs nothing."""
        folder = self.dockerfile.rpartition("/")[0]
        return f"{folder}/requirements.lock" if self.extras else None


# Only `chopstick …` needs these two; a server and a sidecar have no command line of that kind.
_COMMAND_LINE = ("click", "rich")

CLASSIFIER = Image(
    "chopstick-classifier",
    "serving/images/classifier/Dockerfile",
    "TensorFlow Serving with one verified model version",
)
HEALTH = Image(
    "chopstick-health",
    "serving/images/health/Dockerfile",
    "Readiness of a model server, told to the kubelet, to gRPC clients and to Prometheus",
    extras=("health",),
    omits=_COMMAND_LINE,
    limit=90,
)
TOOLS = Image(
    "chopstick-tools",
    "serving/images/tools/Dockerfile",
    "The chopstick command line",
    extras=("client",),
    # Build tools that hdrhistogram names as if it needed them.
    unused=("pbr", "setuptools"),
    limit=160,
)
EMBEDDED = Image(
    "chopstick-embedded",
    "serving/images/embedded/Dockerfile",
    "The embedded model server, in the place of TensorFlow Serving's image",
    extras=("server",),
    omits=_COMMAND_LINE,
    # TensorFlow names the first two for building on top of it, astunparse the third.
    unused=("libclang", "setuptools", "wheel"),
)
# What `make build_image` builds. The embedded server first, as a classifier may stand on it.
IMAGES = {image.name: image for image in (EMBEDDED, CLASSIFIER, HEALTH, TOOLS)}
# Built only when asked for by name: it takes the tag of somebody else's image.
STAND_IN = Image(
    "stand-in",
    "tests/cluster/stand-in/Dockerfile",
    "Stands in for TensorFlow Serving's image in tests",
)
STAND_IN_TAG = "tensorflow/serving:2.21.0"


def find(name: str) -> Image:
    """The image of a name; raises ChopstickError naming those that exist."""
    image = STAND_IN if name == STAND_IN.name else IMAGES.get(name)
    if image is None:
        raise ChopstickError(
            f"there is no image '{name}'", f"There are: {', '.join(IMAGES)} (and {STAND_IN.name})."
        )
    return image


def project_version() -> str:
    """The version in pyproject.toml, which tags every image but the classifier's."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def full_name(reference: str) -> str:
    """A reference as a cluster resolves it: `x:1` is docker.io/library/x:1.

    Raises ChopstickError for one without a tag, since `latest` says nothing about what runs.
    """
    host, slash, _ = reference.partition("/")
    if not slash:
        reference = f"docker.io/library/{reference}"
    elif not ("." in host or ":" in host or host == "localhost"):
        reference = f"docker.io/{reference}"
    if ":" not in reference.rpartition("/")[2]:
        raise ChopstickError(f"image '{reference}' has no tag", "Write it as NAME:TAG.")
    return reference


def short_name(reference: str) -> str:
    """A reference as people write it: the opposite of `full_name`."""
    return reference.removeprefix("docker.io/").removeprefix("library/")
