"""The models of the conformance suite: `python -m tests.conformance.models DIR [--full]`.

Writes
- DIR/models/NAME/VERSION: what every case may ask for and none changes,
- DIR/scratch/NAME/VERSION: what cases about versions add to and take from,
- DIR/spare/NAME: versions to be copied there,
- DIR/models.config: a text ModelServerConfig for all of it, with absolute paths,
- DIR/monitoring.config.

Only saved_model and plain ops that a TensorFlow Serving of any age has.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# At 16 floats a row; 200 MB.
EMBEDDING_ROWS, EMBEDDING_WIDTH = 3_276_800, 16

POLICIES = {
    "half_plus_three": "specific { versions: 1 versions: 2 }",
    "names": "all {}",
    "all": "all {}",
    "two": "latest { num_versions: 2 }",
    "specific": "specific { versions: 1 versions: 3 }",
}
LABELS = {"half_plus_three": {"stable": 1, "canary": 2, "also-stable": 1}}

# Where each scratch model's versions come from: directory name -> spare.
SCRATCH = {
    "names": {
        "1": "k1", "00002": "k2", "+3": "k3", "v4": "k1", ".tmp-5": "k1", "..data": "k1",
        "lost+found": "k1", "6.0": "k1", "0x7": "k1", "1e3": "k1", "99999999999999999999": "k1",
    },
    "duplicates": {"001": "k2", "1": "k1"},
    "switched": {"1": "k1"},
    "rolled_back": {"1": "k1"},
    "emptied": {"1": "k1"},
    "missing": {"1": "k1"},
    "corrupt": {"1": "k1"},
    "mistagged": {"1": "k1"},
    "ended": {"1": "k1"},
    "truncated": {"1": "k1"},
    "a_file": {"1": "k1"},
    "all": {"1": "k1", "2": "k2"},
    "two": {"1": "k1", "2": "k2", "3": "k3"},
    "specific": {"1": "k1", "2": "k2", "3": "k3"},
    "warm": {"1": "k1"},
    "rolling": {"1": "k1"},
    **{f"warm_{number}": {"1": "k1"} for number in range(1, 6)},
    "in_flight": {"1": "slow"},
}  # fmt: skip


def config(entries: dict[str, Path], *, labels: bool = True) -> str:
    """A ModelServerConfig of the named base paths, with the policies and labels from above."""
    return "".join(
        entry(name, path, POLICIES.get(name, ""), LABELS.get(name) if labels else None)
        for name, path in entries.items()
    ).join(["model_config_list {\n", "}\n"])


def entry(name: str, path: Path | str, policy: str = "", labels: dict[str, int] | None = None):
    """One `config { … }` of a ModelServerConfig."""
    extra = f" model_version_policy {{ {policy} }}" if policy else ""
    for label, version in (labels or {}).items():
        extra += f' version_labels {{ key: "{label}" value: {version} }}'
    return (
        f'  config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow"{extra} }}\n'
    )


def base_entries(folder: Path) -> dict[str, Path]:
    """The base path of every model that DIR's models.config names."""
    return {
        child.name: child
        for part in ("models", "scratch")
        for child in sorted((folder / part).iterdir())
    }


def prepared(*, full: bool = False) -> Path:
    """The models, made in a process of their own unless they are there already."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    place = ROOT / "build" / "conformance" / (digest + ("-full" if full else ""))
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            made = place.with_suffix(".new")
            shutil.rmtree(made, ignore_errors=True)
            command = [sys.executable, "-m", "tests.conformance.models", str(made)]
            result = subprocess.run(
                [*command, "--full"] if full else command,
                capture_output=True, text=True, check=False, cwd=ROOT,
            )  # fmt: skip
            assert result.returncode == 0, result.stderr
            made.rename(place)
    return place


def staged(folder: Path, *, full: bool = False) -> Path:
    """A copy of the models that a run may change, with a models.config of its own."""

    def copy(source: str, target: str) -> None:
        # Nothing changes a large file, and 200 MB a copy is a lot.
        if Path(source).stat().st_size > 1 << 20:
            # Not possible from one file system to another.
            with contextlib.suppress(OSError):
                os.link(source, target)
                return
        shutil.copyfile(source, target)

    shutil.copytree(prepared(full=full), folder, copy_function=copy, dirs_exist_ok=True)
    write_configs(folder)
    return folder


def write_configs(folder: Path) -> None:
    """Write models.config and monitoring.config for the models under `folder`."""
    folder = folder.resolve()
    (folder / "models.config").write_text(config(base_entries(folder)))
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }\n")


# Making them. TensorFlow is imported only here.


def make(folder: Path, *, full: bool) -> None:
    """Write all models; takes some ten seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    models, spare = folder / "models", folder / "spare"
    half_plus_two(models / "half_plus_two" / "00000123")
    article(models / "article" / "1")
    half_plus_three(models / "half_plus_three" / "1", 3.0)
    half_plus_three(models / "half_plus_three" / "2", 3.0)
    strings(models / "strings" / "1")
    padded(models / "padded" / "1")
    several(models / "several" / "1")
    vocabulary(models / "vocabulary" / "1")
    slow(models / "slow" / "1")
    picky(models / "picky" / "1")
    if full:
        embedding(models / "embedding" / "1")

    for number in (1, 2, 3):
        constant(spare / f"k{number}", float(number))
    constant(spare / "mistagged", 9.0, tag="train")
    shutil.copytree(models / "slow" / "1", spare / "slow")
    shutil.copytree(models / "half_plus_two" / "00000123", spare / "half_plus_two")
    never(spare / "never")
    warm_ups(spare)
    for name, versions in SCRATCH.items():
        for directory, source in versions.items():
            shutil.copytree(spare / source, folder / "scratch" / name / directory)
    write_configs(folder)


def _save_v1(folder: Path, build, tag: str = "serve", init=None) -> None:
    """A SavedModel as TensorFlow 1 wrote them; `build(tf, v1)` returns the signatures."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        signatures, main_op, assets = build(tf, v1)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.builder.SavedModelBuilder(str(folder))
        builder.add_meta_graph_and_variables(
            session, [tag], signature_def_map=signatures, main_op=main_op,
            assets_collection=assets,
        )  # fmt: skip
        builder.save()


def _signature(v1, inputs, outputs, method: str = "predict"):
    info = v1.saved_model.build_tensor_info
    return v1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        f"tensorflow/serving/{method}",
    )


def half_plus_two(folder: Path) -> None:
    """TFS's own test model: its signatures, method names and asset."""

    def build(tf, v1):
        a, b, c = v1.Variable(0.5, name="a"), v1.Variable(2.0, name="b"), v1.Variable(3.0, name="c")
        serialized = v1.placeholder(tf.string, [None], "tf_example")
        features = v1.parse_example(
            serialized,
            {
                "x": tf.io.FixedLenFeature([1], tf.float32),
                "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
            },
        )
        x, x2 = tf.identity(features["x"], "x"), tf.identity(features["x2"], "x2")
        y, y2, y3 = (
            tf.identity(a * value + plus, name)
            for name, value, plus in (("y", x, b), ("y2", x, c), ("y3", x2, c))
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        asset = folder.parent / "foo.txt"
        asset.write_text("asset-file-contents")
        path = tf.constant(str(asset))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, path)
        signatures = {
            "serving_default": _signature(v1, {"x": x}, {"y": y}),
            "regress_x_to_y": _signature(v1, {"inputs": serialized}, {"outputs": y}, "regress"),
            "regress_x_to_y2": _signature(v1, {"inputs": serialized}, {"outputs": y2}, "regress"),
            "regress_x2_to_y3": _signature(v1, {"inputs": x2}, {"outputs": y3}, "regress"),
            "classify_x_to_y": _signature(v1, {"inputs": serialized}, {"scores": y}, "classify"),
        }
        return signatures, tf.group(path), v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)

    _save_v1(folder, build)
    (folder.parent / "foo.txt").unlink()


def article(folder: Path) -> None:
    """The article's model: one matrix, one bias, softmax; [-1, 1] -> [-1, 3]."""

    def build(tf, v1):
        x = v1.placeholder(tf.float32, [None, 1], "Placeholder")
        weights = v1.Variable([[0.31333977, 2.70563316, -1.37489200]], name="W")
        bias = v1.Variable([-0.00480587, 0.01897646, -0.01417058], name="b")
        y = v1.nn.softmax(
            tf.add(v1.matmul(x, weights, name="MatMul"), bias, name="add"), name="Softmax"
        )
        return (
            {"serving_default": _signature(v1, {"chopstick_length": x}, {"classes_prob": y})},
            None,
            None,
        )

    _save_v1(folder, build)


def constant(folder: Path, value: float, tag: str = "serve") -> None:
    """`x` -> `k`: the same number for every row, which tells which directory was loaded."""

    def build(tf, v1):
        x = v1.placeholder(tf.float32, [None], "x")
        return {"serving_default": _signature(v1, {"x": x}, {"k": x * 0.0 + value})}, None, None

    _save_v1(folder, build, tag)


def never(folder: Path) -> None:
    """Its initialiser waits for ever, without using the CPU, for an item of an empty queue."""

    def build(tf, v1):
        x = v1.placeholder(tf.float32, [None], "x")
        item = v1.FIFOQueue(1, [tf.float32], shapes=[[]]).dequeue()
        return {"serving_default": _signature(v1, {"x": x}, {"k": x + 1})}, tf.group(item), None

    _save_v1(folder, build)


def _save_v2(folder: Path, module, names: dict[str, str]) -> None:
    import tensorflow as tf

    signatures = {key: getattr(module, name) for key, name in names.items()}
    tf.saved_model.save(module, str(folder), signatures=signatures)


def half_plus_three(folder: Path, plus: float) -> None:
    """TensorFlow 2, with classify and regress signatures whose method name is predict."""
    import tensorflow as tf

    feature = {"x": tf.io.FixedLenFeature([1], tf.float32)}
    serialized = [tf.TensorSpec([None], tf.string, "inputs")]

    class HalfPlus(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = tf.Variable(0.5), tf.Variable(plus)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def predict(self, x):
            return {"y": self.a * x + self.b}

        @tf.function(input_signature=serialized)
        def regress(self, inputs):
            return {"outputs": self.a * tf.io.parse_example(inputs, feature)["x"] + self.b}

        @tf.function(input_signature=serialized)
        def classify(self, inputs):
            x = tf.io.parse_example(inputs, feature)["x"]
            labels = tf.tile([["small", "large"]], [tf.shape(x)[0], 1])
            return {"classes": labels, "scores": tf.concat([x, self.a * x + self.b], 1)}

        @tf.function(input_signature=serialized)
        def three(self, inputs):
            x = tf.io.parse_example(inputs, feature)["x"]
            return {"classes": tf.as_string(x), "scores": x, "more": x}

        @tf.function(input_signature=serialized)
        def flat(self, inputs):
            return {"scores": tf.io.parse_example(inputs, feature)["x"][:, 0]}

        @tf.function(input_signature=serialized)
        def wide(self, inputs):
            x = tf.io.parse_example(inputs, feature)["x"]
            return {"outputs": tf.concat([x, x], 1)}

    names = ("regress", "classify", "three", "flat", "wide")
    _save_v2(
        folder, HalfPlus(), {"serving_default": "predict", **dict(zip(names, names, strict=True))}
    )


def strings(folder: Path) -> None:
    """Strings in and out; an output named *_bytes."""
    import tensorflow as tf

    class Strings(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def serve(self, text):
            return {
                "upper": tf.strings.upper(text),
                "length": tf.strings.length(text),
                "raw_bytes": text,
            }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
        def echo(self, image_bytes):
            return {"echo_bytes": tf.identity(image_bytes)}

    _save_v2(folder, Strings(), {"serving_default": "serve", "echo": "echo"})


def padded(folder: Path) -> None:
    """Rows of unequal length, padded with zeros: the sum of each and how many are not zero."""
    import tensorflow as tf

    class Padded(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64, "tokens")])
        def serve(self, tokens):
            return {
                "sum": tf.reduce_sum(tokens, 1),
                "used": tf.reduce_sum(tf.cast(tokens != 0, tf.int32), 1),
            }

    _save_v2(folder, Padded(), {"serving_default": "serve"})


def several(folder: Path) -> None:
    """Several signatures: two inputs, every dtype, no batch dimension, a default."""
    import tensorflow as tf

    spec = tf.TensorSpec
    dtypes = {
        "f": tf.float32, "d": tf.float64, "i": tf.int32, "l": tf.int64, "b": tf.bool,
        "u": tf.uint8, "h": tf.float16,
    }  # fmt: skip

    class Several(tf.Module):
        @tf.function(input_signature=[spec([None], tf.float32, "a"), spec([None], tf.float32, "b")])
        def two(self, a, b):
            return {"sum": a + b, "difference": a - b}

        @tf.function(input_signature=[spec([None], tf.float32, "x")])
        def total(self, x):
            return {"total": tf.reduce_sum(x)}

        @tf.function(input_signature=[spec([None], tf.float32, "x")])
        def uneven(self, x):
            return {"x": x + 0.0, "first": x[:1]}

        @tf.function(input_signature=[spec([None], kind, name) for name, kind in dtypes.items()])
        def types(self, f, d, i, l, b, u, h):  # noqa: E741
            values = {"f": f, "d": d, "i": i, "l": l, "b": b, "u": u, "h": h}
            return {f"{name}_out": tf.identity(value) for name, value in values.items()}

        @tf.function(input_signature=[spec([None, 2], tf.float32, "x")])
        def nested(self, x):
            return {"y": tf.reshape(x, [-1, 2, 1])}

        @tf.function(input_signature=[spec([1], tf.float32, "x"), spec([1], tf.float32, "plus")])
        def default(self, x, plus=tf.constant([5.0])):  # noqa: B008
            return {"y": x + plus}

    names = ("two", "total", "uneven", "types", "nested", "default")
    _save_v2(folder, Several(), {"serving_default": "two", **dict(zip(names, names, strict=True))})


def vocabulary(folder: Path) -> None:
    """A lookup table whose words are an asset of the SavedModel."""
    import tensorflow as tf

    folder.parent.mkdir(parents=True, exist_ok=True)
    words = folder.parent / "words.txt"
    words.write_text("bamboo\nsteel\nwood\n")

    class Vocabulary(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            initializer = tf.lookup.TextFileInitializer(
                str(words),
                tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
            )  # fmt: skip
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
        def serve(self, word):
            return {"index": self.table.lookup(word)}

    _save_v2(folder, Vocabulary(), {"serving_default": "serve"})
    words.unlink()


def slow(folder: Path) -> None:
    """About a millisecond for each iteration that a row asks for."""
    import tensorflow as tf

    class Slow(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "iterations")])
        def serve(self, iterations):
            _, product = tf.while_loop(
                lambda i, _: i < tf.reduce_max(iterations),
                lambda i, p: (i + 1, tf.linalg.matmul(p, p) * 1e-3),
                (0, tf.eye(256)),
            )
            return {"value": tf.cast(iterations, tf.float32) + 0.0 * tf.reduce_sum(product)}

    _save_v2(folder, Slow(), {"serving_default": "serve"})


def picky(folder: Path) -> None:
    """Fails on a number that is none, and on an index that is too large."""
    import tensorflow as tf

    class Picky(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x):
            return {"y": tf.debugging.check_numerics(x, "not a number for me")}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "index")])
        def pick(self, index):
            return {"value": tf.gather(tf.constant([10.0, 20.0, 30.0]), index)}

    _save_v2(folder, Picky(), {"serving_default": "serve", "pick": "pick"})


def embedding(folder: Path) -> None:
    """200 MB in one variable; row n holds n in every column."""
    import tensorflow as tf

    class Embedding(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            rows = tf.range(EMBEDDING_ROWS, dtype=tf.float32)
            self.table = tf.Variable(tf.repeat(rows[:, None], EMBEDDING_WIDTH, 1))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "row")])
        def serve(self, row):
            return {"vector": tf.gather(self.table, row)}

    _save_v2(folder, Embedding(), {"serving_default": "serve"})


def warm_ups(spare: Path) -> None:
    """Copies of k2 with warm-up files: good, failing, one record too many, and so on."""
    import tensorflow as tf

    from serving.protocol import messages

    good = messages.PredictionLog()
    request = good.predict_log.request
    request.model_spec.name = "warm"
    tensor = request.inputs["x"]
    tensor.dtype = messages.DT_FLOAT
    tensor.tensor_shape.dim.add(size=1)
    tensor.float_val.append(1.0)
    failing = messages.PredictionLog()
    failing.CopyFrom(good)
    failing.predict_log.request.inputs["y"].CopyFrom(tensor)
    session_run = messages.PredictionLog()
    session_run.session_run_log.SetInParent()
    records = {
        "warm_good": [good.SerializeToString()] * 3,
        "warm_failing": [good.SerializeToString(), failing.SerializeToString()],
        "warm_many": [good.SerializeToString()] * 1001,
        "warm_session_run": [session_run.SerializeToString()],
        "warm_nonsense": [b"\xff\xff\xff"],
        "warm_no_records": b"these are no TFRecords at all, but long enough",
    }
    for name, lines in records.items():
        shutil.copytree(spare / "k2", spare / name)
        (spare / name / "assets.extra").mkdir()
        file = spare / name / "assets.extra" / "tf_serving_warmup_requests"
        if isinstance(lines, bytes):
            file.write_bytes(lines)
            continue
        with tf.io.TFRecordWriter(str(file)) as writer:
            for line in lines:
                writer.write(line)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.models", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="also the embedding of 200 MB")
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"{arguments.folder} is not empty")
    make(arguments.folder, full=arguments.full)
    print(f"wrote {arguments.folder.resolve() / 'models.config'}")


if __name__ == "__main__":
    main()
