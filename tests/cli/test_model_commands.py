from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from model import manifest
from serving.cli import chopstick
from serving.errors import ChopstickError

HEADER = "individual,180,240\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(chopstick, [str(word) for word in arguments], prog_name="chopstick")


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serving.cli", *(str(word) for word in arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with version 1, exported by the command line."""
    base = tmp_path_factory.mktemp("cli") / "chopstick"
    result = run("train", "--out", base, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == f"directory\t{base}/1"
    return base


def test_train_takes_the_next_version_and_says_what_it_did(base: Path) -> None:
    result = run("train", "--out", base, "--trainer", "linear", "--json")
    assert result.exit_code == 0
    body = json.loads(result.stdout)
    directory = Path(body["directory"])
    assert directory.parent == base
    assert body["version"] == int(directory.name) >= 2
    assert body["trainer"] == "linear"
    facts = manifest.read(directory)
    assert facts["metrics"]["training"]["log_loss"] == body["log_loss"]
    assert facts["seed"] == body["seed"] == 1991
    assert set(facts["versions"]) == {"chopstick-serving", "keras", "tensorflow"}
    assert str(base.parent) not in (directory / manifest.MANIFEST).read_text()


def test_train_refuses_an_existing_version(base: Path) -> None:
    result = run("train", "--out", base, "--version", 1)
    assert isinstance(result.exception, ChopstickError)
    assert "version 1" in result.exception.message
    assert "not overwritten" in result.exception.message


def test_train_with_bad_data_writes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "bad.csv"
    data.write_text(HEADER + "1,20,thirty\n")
    result = run("train", "--out", tmp_path / "models", "--data", data)
    assert isinstance(result.exception, ChopstickError)
    assert f"data file '{data}', row 2, column '240': 'thirty'" in result.exception.message
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--trainer", "forest"), ("--seed", "-1"), ("--seed", "x"), ("--version", "one")],
)
def test_train_usage(arguments: tuple[str, str]) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_bad_input_ends_without_a_traceback(tmp_path: Path) -> None:
    missing = tmp_path / "none.csv"
    with process("train", "--data", missing, "--out", tmp_path / "models") as training:
        stdout, stderr = training.communicate(timeout=60)
    assert training.returncode == 1
    assert stdout == ""
    assert stderr.startswith(f"error: cannot read data file '{missing}'")
    assert "--data" in stderr
    assert "Traceback" not in stderr


def test_terminated_training_leaves_nothing(tmp_path: Path) -> None:
    base = tmp_path / "models"
    with process("train", "--out", base) as training:
        # The hidden directory is there from the first byte to the rename.
        while not list(base.glob(".tmp-*")):
            assert training.poll() is None, training.communicate()
            time.sleep(0.001)
        training.send_signal(signal.SIGTERM)
        _, stderr = training.communicate(timeout=60)
    assert training.returncode == 143
    assert "Traceback" not in stderr
    assert list(base.iterdir()) == []


def test_export_of_a_fresh_process_has_the_same_bytes(
    tmp_path: Path, chopstick_models: Path
) -> None:
    base = tmp_path / "elsewhere"
    with process("train", "--out", base, "--version", 4) as training:
        _, stderr = training.communicate(timeout=100)
    assert training.returncode == 0, stderr
    # TensorFlow's start-up notes are for nobody.
    assert stderr.splitlines() == [
        "importing TensorFlow …",
        "training softmax on 186 measurements …",
        f"exporting to {base} …",
    ]
    first, second = manifest.verify(chopstick_models / "1"), manifest.verify(base / "4")
    assert first.ok
    assert second.ok
    assert first.manifest_sha256 == second.manifest_sha256


def test_verify_a_version_and_a_base_path(base: Path) -> None:
    result = run("verify", base / "1")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"ok\t{base}/1\t5 files\tmanifest ")
    both = run("verify", base, "--json")
    assert both.exit_code == 0
    assert Path(json.loads(both.stdout)[0]["directory"]) == base / "1"


def test_verify_says_what_differs_without_tensorflow(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "models" / "1"
    shutil.copytree(base / "1", copy)
    weights = copy / "variables" / "variables.data-00000-of-00001"
    content = bytearray(weights.read_bytes())
    content[10] ^= 0xFF
    weights.write_bytes(content)
    (copy / "fingerprint.pb").unlink()
    (copy / "core.1234").touch()
    script = (
        "import sys\nfrom serving.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "verify", str(copy.parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert [tuple(line.split("\t")[:2]) for line in done.stdout.splitlines()] == [
        ("extra", f"{copy}/core.1234"),
        ("missing", f"{copy}/fingerprint.pb"),
        ("differs", f"{weights}"),
    ]
    assert f"error: {copy} is not as it was exported" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_of_what_is_no_model(tmp_path: Path) -> None:
    for path, words in [(tmp_path / "none", "is not a directory"), (tmp_path, "has no assets")]:
        result = run("verify", path)
        assert isinstance(result.exception, ChopstickError)
        assert words in result.exception.message


def test_evaluate_in_a_pipe_is_a_table(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = run("evaluate", "--quick", "--folds", 3, "--out", tmp_path, "--json", figures)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    table = [line.split("\t") for line in lines if not line.startswith("#")]
    assert {len(row) for row in table} == {10}
    assert [row[0] for row in table] == ["model", "majority", "prior", "softmax"]
    verdict = "\n".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    assert json.loads(figures.read_text())["verdict"] == verdict
    assert (tmp_path / "evaluation.png").stat().st_size > 10_000


def test_evaluate_json_on_standard_output(tmp_path: Path) -> None:
    result = run("evaluate", "--trainer", "softmax", "--folds", 2, "--out", tmp_path, "--json", "-")
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert [model["name"] for model in body["models"]] == [
        "majority", "prior", "boosting", "softmax",
    ]  # fmt: skip


def test_evaluate_usage() -> None:
    assert run("evaluate", "--quick", "--trainer", "deep").exit_code == 2
    result = run("evaluate", "--folds", 99)
    assert isinstance(result.exception, ChopstickError)
    assert "from 2 to 31" in result.exception.remedy
