from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import export, manifest
from model._tensorflow import tensorflow
from model.dataset import load
from model.trainers import TRAINERS, probabilities, trainer
from serving.errors import ChopstickError
from serving.protocol import messages
from serving.protocol.tensors import to_array

LENGTHS = np.array([180, 210, 240, 270, 300, 330], np.float32)


@pytest.fixture(scope="module", params=TRAINERS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier of each trainer with the directory it was exported to."""
    data = load()
    classifier = trainer(request.param).train(data.lengths, data.labels, seed=1)
    base = tmp_path_factory.mktemp("models") / "chopstick"
    return classifier, export.export(classifier, base, facts={"trainer": request.param})


def names(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.iterdir())


def test_signatures_are_the_contract(exported: Any) -> None:
    _, directory = exported
    model = messages.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    [graph] = model.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    found = {
        name: (
            {key: describe(info) for key, info in signature.inputs.items()},
            {key: describe(info) for key, info in signature.outputs.items()},
        )
        for name, signature in graph.signature_def.items()
        if not name.startswith("__")
    }
    assert found == {
        "serving_default": (
            {"chopstick_length": ("DT_FLOAT", [-1, 1])},
            {"classes_prob": ("DT_FLOAT", [-1, 3])},
        ),
        "classify": (
            {"inputs": ("DT_STRING", [-1])},
            {"classes": ("DT_STRING", [-1, 3]), "scores": ("DT_FLOAT", [-1, 3])},
        ),
    }


def describe(info: Any) -> tuple[str, list[int]]:
    return messages.DataType.Name(info.dtype), [dim.size for dim in info.tensor_shape.dim]


def test_predict_and_classify_say_what_the_classifier_says(exported: Any) -> None:
    classifier, directory = exported
    tf = tensorflow()
    signatures = tf.saved_model.load(str(directory)).signatures
    expected = probabilities(classifier, LENGTHS)
    predicted = signatures["serving_default"](chopstick_length=tf.constant(LENGTHS[:, np.newaxis]))
    # TensorFlow rearranges the arithmetic of a graph: equal to the last bit but one.
    assert np.allclose(predicted["classes_prob"].numpy(), expected, atol=1e-6)
    classified = signatures["classify"](inputs=tf.constant([example(x) for x in LENGTHS]))
    assert np.allclose(classified["scores"].numpy(), expected, atol=1e-6)
    assert classified["classes"].numpy().tolist() == [[b"low", b"medium", b"high"]] * 6


def example(length: float) -> bytes:
    made = messages.Example()
    made.features.feature["chopstick_length"].float_list.value.append(length)
    return bytes(made.SerializeToString())


def test_warmup_has_records_for_every_signature(exported: Any) -> None:
    _, directory = exported
    tf = tensorflow()
    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        messages.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    kinds = [log.WhichOneof("log_type") for log in logs]
    assert sorted(set(kinds)) == ["classify_log", "predict_log"]
    signatures = tf.saved_model.load(str(directory)).signatures
    for log in logs:
        if log.WhichOneof("log_type") == "predict_log":
            request = log.predict_log.request
            lengths = to_array(request.inputs["chopstick_length"])
            answer = signatures[request.model_spec.signature_name](
                chopstick_length=tf.constant(lengths)
            )
            assert answer["classes_prob"].shape == (len(lengths), 3)
        else:
            examples = log.classify_log.request.input.example_list.examples
            answer = signatures[log.classify_log.request.model_spec.signature_name](
                inputs=tf.constant([item.SerializeToString() for item in examples])
            )
            assert answer["scores"].shape == (len(examples), 3)


def test_directory_is_complete_and_readable_by_others(exported: Any) -> None:
    _, directory = exported
    assert directory.name == "1"
    assert names(directory.parent) == ["1"]
    assert manifest.verify(directory).ok
    mask = os.umask(0)
    os.umask(mask)
    assert directory.stat().st_mode & 0o777 == 0o777 & ~mask


def test_fingerprint_is_made_of_the_content(exported: Any, tmp_path: Path) -> None:
    classifier, first = exported
    second = export.export(classifier, tmp_path / "again")
    # The files that hold weights and requests; saved_model.pb numbers functions by process.
    for name in manifest.read(first)["files"]:
        if name not in {"saved_model.pb", "fingerprint.pb"}:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    pattern = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
    assert re.search(pattern, (first / "fingerprint.pb").read_bytes())


def test_next_version(tmp_path: Path) -> None:
    base = tmp_path / "models"
    assert export.next_version(base) == 1
    for name in ["1", "007", "notes", ".tmp-9", "v12", "\u0663"]:
        (base / name).mkdir(parents=True)
    assert export.next_version(base) == 8
    # A stray file would make the rename fail, so its number is taken too.
    (base / "9").touch()
    assert export.next_version(base) == 10
    (base / str(export.LARGEST_VERSION)).mkdir()
    with pytest.raises(ChopstickError, match="highest there is"):
        export.next_version(base)


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_version_out_of_range(tmp_path: Path, version: int) -> None:
    with pytest.raises(ChopstickError, match="is not a version"):
        export.export(None, tmp_path, version=version)


def test_existing_version_is_not_overwritten(exported: Any) -> None:
    classifier, directory = exported
    before = manifest.verify(directory)
    with pytest.raises(ChopstickError, match=r"version 1 of .* exists") as caught:
        export.export(classifier, directory.parent, version=1)
    assert "export as 2" in caught.value.remedy
    assert manifest.verify(directory) == before
    assert names(directory.parent) == ["1"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    base = tmp_path / "models"
    with pytest.raises(ZeroDivisionError):
        export.export(lambda _: 1 / 0, base)
    assert names(base) == []


def test_base_that_is_a_file(tmp_path: Path) -> None:
    base = tmp_path / "models"
    base.write_text("in the way")
    with pytest.raises(ChopstickError, match="cannot write models to"):
        export.export(None, base)
    assert base.read_text() == "in the way"


def test_abandoned_directory_is_removed_when_old(tmp_path: Path) -> None:
    old, young = tmp_path / ".tmp-old", tmp_path / ".tmp-young"
    for directory in (old, young):
        directory.mkdir()
        (directory / "saved_model.pb").touch()
    hours_ago = time.time() - 2 * 3600
    os.utime(old, (hours_ago, hours_ago))
    with export._temporary(tmp_path):
        pass
    assert names(tmp_path) == [".tmp-young"]


# The steps of an export around the SavedModel, without TensorFlow, so that many can race.
# All is written before the start, so that the renames meet.
RACER = """
import contextlib, sys
from pathlib import Path
from model import export, manifest
base = Path(sys.argv[1])
with contextlib.ExitStack() as stack:
    written = [stack.enter_context(export._temporary(base)) for _ in range(25)]
    for number, directory in enumerate(written):
        (directory / "weights").write_text(f"{sys.argv[2]} {number}")
        manifest.write(directory, {})
    print("ready", flush=True)
    sys.stdin.readline()
    for directory in written:
        print(export._publish(directory, base, None).name, flush=True)
"""


def test_exports_at_the_same_time_get_different_versions(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = [int(line) for racer in racers for line in racer.communicate(timeout=60)[0].split()]
    assert all(racer.returncode == 0 for racer in racers)
    assert sorted(taken) == list(range(1, 101))
    contents = {(tmp_path / str(version) / "weights").read_text() for version in taken}
    assert len(contents) == 100
    assert all(manifest.verify(tmp_path / str(version)).ok for version in taken)
    assert len(names(tmp_path)) == 100


def test_race_for_one_explicit_version_has_one_winner(tmp_path: Path) -> None:
    with export._temporary(tmp_path) as first, export._temporary(tmp_path) as second:
        for directory in (first, second):
            (directory / "weights").write_text(directory.name)
        won = export._publish(first, tmp_path, 5)
        with pytest.raises(ChopstickError, match=r"version 5 of .* exists"):
            export._publish(second, tmp_path, 5)
        assert (won / "weights").read_text() == first.name
    assert names(tmp_path) == ["5"]


# A shell's background job starts with Ctrl-C ignored; this one heeds it wherever the tests run.
STUCK = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from model import export
with export._temporary(Path(sys.argv[1])) as directory:
    (directory / "saved_model.pb").write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "left"), [(signal.SIGINT, 0), (signal.SIGKILL, 1)], ids=["ctrl-c", "kill"]
)
def test_interrupted_export_leaves_no_version(
    tmp_path: Path, sent: signal.Signals, left: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(sent)
    process.communicate(timeout=30)
    assert export.next_version(tmp_path) == 1
    remains = names(tmp_path)
    assert len(remains) == left
    assert all(name.startswith(".tmp-") for name in remains)
