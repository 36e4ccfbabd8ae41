"""The files of an overlay, and writing them all or none."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
from pathlib import Path

from serving.errors import ChopstickError
from serving.overlay.base import Base
from serving.overlay.model import Served

# Equals versions.yaml, which an installed package does not have; a test compares.
SERVING = "tensorflow/serving:2.21.0"


def contents(
    name: str, namespace: str, served: Served, base: Base, overlay: Path
) -> dict[str, str]:
    """Return the text of every file by its name, for an overlay in the folder `overlay`."""
    files = {
        "kustomization.yaml": _kustomization(namespace, served, base),
        "model.env": _environment(served),
        "README.md": _readme(name, namespace, served, overlay),
    }
    if served.directory is not None:
        files["Dockerfile"] = _dockerfile(served, served.directory.resolve().name)
    return files


def write(folder: Path, files: dict[str, str]) -> None:
    """Write the files into a new folder, which is there with all of them or not at all.

    Raises ChopstickError when the folder exists or can't be written.
    """
    refused = ChopstickError(
        f"'{folder}' exists already", "Remove it, or take another name; nothing was changed."
    )
    if folder.exists() or folder.is_symlink():
        raise refused
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        beside.mkdir(parents=True)
        try:
            for name, text in files.items():
                (beside / name).write_text(text, encoding="utf-8")
            # Over an empty folder that somebody made meanwhile this succeeds, over no other.
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except FileExistsError:
        raise refused from None
    except OSError as error:
        raise ChopstickError(
            f"can't write '{folder}': {error.strerror or error}", "Choose another with --dest."
        ) from None


def build_command(served: Served, overlay: Path, start: Path) -> str | None:
    """Return the command that builds the image, with paths from `start`; None if there is one."""
    if served.directory is None:
        return None
    dockerfile = os.path.relpath(overlay.resolve() / "Dockerfile", start.resolve())
    context = os.path.relpath(served.directory.resolve().parent, start.resolve())
    tag = f"{served.image}:{served.tag}"
    return shlex.join(["docker", "build", "--tag", tag, "--file", dockerfile, context])


def _kustomization(namespace: str, served: Served, base: Base) -> str:
    return f"""\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
# All names stay as in the base: the namespace tells models apart.
namespace: {namespace}
resources:
  - {base.base}
components:
  - {base.component("namespace")}
configMapGenerator:
  - name: chopstick-model
    behavior: merge
    envs: [model.env]
images:
  - name: chopstick-classifier
    newName: {served.image}
    newTag: "{served.tag}" # with MODEL_VERSION in model.env
"""


def _environment(served: Served) -> str:
    return (
        f"MODEL_NAME={served.name}\nMODEL_VERSION={served.version}\nMODEL_DIGEST={served.digest}\n"
    )


def _dockerfile(served: Served, folder: str) -> str:
    directory = f"/models/{served.name}/{served.version}"
    return f"""\
# Build context: the folder that holds {folder}/.
ARG BASE={SERVING}
FROM ${{BASE}}
COPY {folder} {directory}
# TensorFlow Serving's image runs as root. By number: runAsNonRoot can't judge a name.
USER 65532:65532
ENTRYPOINT ["/usr/bin/tensorflow_model_server"]
CMD ["--port=8500", "--rest_api_port=8501", "--model_name={served.name}", \
"--model_base_path=/models/{served.name}"]
"""


def _readme(name: str, namespace: str, served: Served, overlay: Path) -> str:
    image = f"{served.image}:{served.tag}"
    build = build_command(served, overlay, overlay)
    commands = [] if build is None else [build, f"# then push {image}, or load it into the cluster"]
    commands.append("kubectl apply -k .")
    return f"""\
# {name}

Model `{served.name}`, version {served.version}, in namespace `{namespace}`, from image `{image}`.

```sh
{chr(10).join(commands)}
kubectl -n {namespace} get pods --watch
```

gRPC at `chopstick-classifier.{namespace}:8500`, REST at
`http://chopstick-classifier.{namespace}:8501/v1/models/{served.name}`.

A new version: a new image, then its tag in `kustomization.yaml` and its number in `model.env`.
"""
