"""What is in an image, as a CycloneDX 1.6 bill of materials: read from its layers, without running it.

Debian packages come from dpkg's status, Python packages from their metadata, the model from its
manifest, TensorFlow Serving and Python from the labels and variables that their images carry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from email.parser import BytesParser
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from scripts.images.oci import Image, Layout
from serving.errors import ChopstickError

_DPKG = re.compile(r"var/lib/dpkg/status|var/lib/dpkg/status\.d/[^/]+")
_PYTHON = re.compile(r".*\.dist-info/METADATA")
_MANIFEST = re.compile(r"models/(?P<name>[^/]+)/(?P<version>\d+)/assets\.extra/manifest\.json")
_SERVER = "usr/bin/tensorflow_model_server"
_BASE = "org.opencontainers.image.base.name"


def bill(layout: Layout, image: Image) -> str:
    """An image's bill of materials as JSON; raises ChopstickError when it is not valid CycloneDX 1.6."""
    files = layout.files(image, _is_read)
    reference = image.reference.rpartition("/")[2]
    name, _, version = reference.partition(":")
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"{reference}@{image.config_digest}"))
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=version,
        bom_ref=reference,
        properties=[Property(name="image:config", value=image.config_digest)],
    )
    parts = {component.bom_ref.value: component for component in components(files, image)}
    bom.components.update(parts.values())
    bom.register_dependency(bom.metadata.component, parts.values())
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ChopstickError(f"the bill of {reference} is not valid: {problem}", "This is a bug.")
    return text


def _is_read(path: str) -> bool:
    return (
        path in {"etc/os-release", "usr/lib/os-release", _SERVER}
        or any(pattern.fullmatch(path) for pattern in (_DPKG, _PYTHON, _MANIFEST))
    )  # fmt: skip


def components(files: dict[str, bytes], image: Image) -> Iterator[Component]:
    """What an image's files, labels and variables tell; the same thing may come twice."""
    system = dict(
        line.split("=", 1)
        for line in files.get("etc/os-release", files.get("usr/lib/os-release", b""))
        .decode()
        .splitlines()
        if "=" in line
    )
    system = {key: value.strip('"') for key, value in system.items()}
    if system:
        yield Component(
            type=ComponentType.OPERATING_SYSTEM,
            name=system["ID"],
            version=system.get("VERSION_ID"),
            bom_ref=f"os:{system['ID']}",
        )
    for path, content in sorted(files.items()):
        if _DPKG.fullmatch(path):
            yield from _debian(content, system)
        elif _PYTHON.fullmatch(path):
            yield _python(content)
        elif found := _MANIFEST.fullmatch(path):
            yield _model(found["name"], found["version"], content)
    yield from _from_configuration(files, image)


def _debian(status: bytes, system: dict[str, str]) -> Iterator[Component]:
    identifier = system.get("ID", "debian")
    distribution = f"{identifier}-{system.get('VERSION_ID', '')}".rstrip("-")
    for paragraph in status.decode().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        # Removed packages whose settings stay are listed too.
        if "Package" not in fields or not fields.get("Status", " installed").endswith(" installed"):
            continue
        purl = PackageURL(
            "deb",
            identifier,
            fields["Package"],
            fields["Version"],
            {"arch": fields.get("Architecture", "all"), "distro": distribution},
        )
        yield Component(
            type=ComponentType.LIBRARY,
            name=fields["Package"],
            version=fields["Version"],
            purl=purl,
            bom_ref=purl.to_string(),
        )


def _python(metadata: bytes) -> Component:
    fields = BytesParser().parsebytes(metadata, headersonly=True)
    name, version = fields["Name"], fields["Version"]
    licence = fields.get("License-Expression") or fields.get("License") or ""
    # Some packages put the whole text there.
    named = [DisjunctiveLicense(name=licence)] if 0 < len(licence) <= 100 else []
    purl = PackageURL("pypi", None, re.sub(r"[-_.]+", "-", name).lower(), version)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=named,
    )


def _model(name: str, version: str, manifest: bytes) -> Component:
    facts = json.loads(manifest)
    properties = [
        Property(name="model:trainer", value=str(facts.get("trainer", ""))),
        Property(name="model:metrics", value=json.dumps(facts.get("metrics", {}), sort_keys=True)),
        Property(name="model:data", value=json.dumps(facts.get("data", {}), sort_keys=True)),
    ]
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=version,
        bom_ref=f"model:{name}@{version}",
        description="Its hash is that of assets.extra/manifest.json, which lists every file's.",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(manifest).hexdigest())],
        properties=properties,
    )


def _from_configuration(files: dict[str, bytes], image: Image) -> Iterator[Component]:
    """What is in an image without a package: TensorFlow Serving's program, the official Python."""
    configuration = image.config.get("config", {})
    base = (configuration.get("Labels") or {}).get(_BASE, "")
    # A program of that name that is a script is the embedded server, a Python package.
    if files.get(_SERVER, b"").startswith(b"\x7fELF"):
        yield _generic("tensorflow-serving", base.rpartition(":")[2] or None)
    variables = dict(item.split("=", 1) for item in configuration.get("Env") or [])
    if version := variables.get("PYTHON_VERSION"):
        yield _generic("python", version)


def _generic(name: str, version: str | None) -> Component:
    purl = PackageURL("generic", None, name, version)
    return Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
    )
