"""Two linters as functions: files in, findings out."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.skips import require_tool

# Below it kube-score has something to say: 1 critical, 5 warning, 10 fine.
FINE = 10


@dataclass(frozen=True, order=True)
class Finding:
    """What a linter says: its name for the check, the object, and the words."""

    linter: str
    check: str
    thing: str
    words: str


def kube_score(file: Path, version: str) -> list[Finding]:
    """kube-score's findings in a file of objects, for a Kubernetes version such as 1.35."""
    done = _run(
        "kube-score", "score", str(file), "--kubernetes-version", f"v{version}", "-o", "json"
    )
    return [
        Finding("kube-score", check["check"]["id"], thing["object_name"], comment["summary"])
        for thing in json.loads(done) or []
        for check in thing["checks"]
        if not check["skipped"] and check["grade"] < FINE
        # Without a comment there is still a finding.
        for comment in check["comments"] or [{"summary": check["check"]["name"]}]
    ]


def checkov(stacks: dict[str, list[Path]]) -> dict[str, list[Finding]]:
    """checkov's findings in the files of each stack; all at once, as starting it takes seconds."""
    owner = {str(file): name for name, files in stacks.items() for file in files}
    named = [word for file in owner for word in ("-f", file)]
    # --skip-download: it would ask its vendor for texts that are not printed here.
    text = _run(
        "checkov", *named, "--framework", "kubernetes", "--skip-download", "--compact", "-o", "json"
    )
    report = json.loads(text)
    if "results" not in report:
        raise AssertionError(f"checkov checked nothing: {text}")
    found: dict[str, list[Finding]] = {name: [] for name in stacks}
    for item in report["results"]["failed_checks"]:
        found[owner[item["file_abs_path"]]].append(
            Finding("checkov", item["check_id"], item["resource"], item["check_name"])
        )
    return found


def _run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [require_tool(name), *arguments], capture_output=True, text=True, check=False, timeout=110
    )
    # 1 is "there are findings".
    if done.returncode not in {0, 1} or not done.stdout:
        raise AssertionError(f"{name} failed ({done.returncode}): {done.stderr}")
    return done.stdout
