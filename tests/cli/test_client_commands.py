"""`chopstick predict, classify, models, load` against the real server."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from serving.cli import main
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from tests.unit.client.sockets import listener

CHOPSTICK = [sys.executable, "-m", "serving.cli"]


@pytest.fixture
def run(capsys):
    """Runs a command line in this process; gives its exit code, standard output and error."""

    def command(*words):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return caught.value.code or 0, out, err

    return command


def rows(tsv):
    return list(csv.DictReader(io.StringIO(tsv), delimiter="\t"))


def on_terminal(*words, columns=80):
    """Run a command on a pseudo-terminal; its exit code and what it wrote there."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(
        [*CHOPSTICK, *words], stdin=child, stdout=child, stderr=child, env=environment
    )
    os.close(child)
    seen = bytearray()
    while True:
        try:
            piece = os.read(parent, 4096)
        except OSError:  # Linux's end of file on a pseudo-terminal
            break
        if not piece:
            break
        seen += piece
    os.close(parent)
    return process.wait(30), seen.decode()


@pytest.fixture(params=["grpc", "rest"])
def to(request, model_server):
    return [model_server.grpc] if request.param == "grpc" else [model_server.rest, "--rest"]


def test_predict_in_a_pipe_is_tsv(run, to):
    code, out, err = run("predict", *to, 180, 240.5, 330)
    assert (code, err) == (0, "")
    table = rows(out)
    assert out.splitlines()[0] == "length\tclass\tlow\tmedium\thigh"
    assert [row["length"] for row in table] == ["180", "240.5", "330"]
    for row in table:
        probabilities = {name: float(row[name]) for name in ("low", "medium", "high")}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert row["class"] == max(probabilities, key=probabilities.get)


def test_predict_json(run, to):
    code, out, _ = run("predict", *to, 240, "--json", "--version", 1)
    document = json.loads(out)
    assert code == 0
    assert (document["model"], document["version"]) == ("chopstick", 1)
    (prediction,) = document["predictions"]
    assert prediction["length"] == 240
    assert set(prediction["probabilities"]) == {"low", "medium", "high"}


def test_classify_says_what_predict_says(run, to):
    _, predicted, _ = run("predict", *to, 180, 330)
    code, out, _ = run("classify", *to, 180, 330)
    assert code == 0
    scores = {(row["length"], row["label"]): float(row["score"]) for row in rows(out)}
    for row in rows(predicted):
        for name in ("low", "medium", "high"):
            assert scores[row["length"], name] == pytest.approx(float(row[name]), rel=1e-5)
    code, out, _ = run("classify", *to, 180, "--json")
    (item,) = json.loads(out)["classifications"]
    assert set(item["scores"]) == {"low", "medium", "high"}


def test_models(run, to):
    code, out, _ = run("models", *to)
    assert code == 0
    (row,) = rows(out)
    assert (row["model"], row["version"], row["state"]) == ("chopstick", "1", "AVAILABLE")
    code, out, _ = run("models", *to, "--json")
    assert json.loads(out)["versions"][0]["state"] == "AVAILABLE"
    code, out, _ = run("models", *to, "--signatures")
    assert code == 0
    assert "serving_default\tinput\tchopstick_length\tfloat\t[-1, 1]" in out.splitlines()


def test_other_signatures_are_tsv_of_every_output(run, model_server):
    code, _, err = run("predict", model_server.grpc, 240, "--signature", "classify")
    assert code == 1
    assert "INVALID_ARGUMENT" in err
    assert f"chopstick models {model_server.grpc} --signatures" in err


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_on_a_terminal_a_table_with_bars(model_server, protocol):
    to = [model_server.grpc] if protocol == "grpc" else [model_server.rest, "--rest"]
    code, seen = on_terminal("predict", *to, "180", "240", "330")
    assert code == 0
    assert "█" in seen
    assert "%" in seen
    assert "\t" not in seen
    assert all(word in seen for word in ("180", "low", "medium", "high", to[0]))
    # Nothing cut off in 80 columns.
    assert "…" not in seen


def test_classify_models_and_load_on_a_terminal(model_server):
    code, seen = on_terminal("classify", model_server.grpc, "240")
    assert (code, "█" in seen) == (0, True)
    code, seen = on_terminal("models", model_server.grpc)
    assert code == 0
    assert "AVAILABLE" in seen
    assert "\t" not in seen
    load = ["load", model_server.grpc, "--rate", "50", "--duration", "1.2"]
    code, seen = on_terminal(*load)
    assert code == 0
    assert "under way" in seen  # the progress
    assert "p99.9" in seen
    assert "…" not in seen


def test_lengths_from_a_file(run, model_server, tmp_path):
    file = tmp_path / "lengths.csv"
    file.write_text("who,length\nann,180\nbob,330\n")
    code, out, _ = run("predict", model_server.grpc, "--csv", file)
    assert code == 0
    assert [row["length"] for row in rows(out)] == ["180", "330"]
    file.write_text("180\n" * 2500)  # more than fit in one request
    code, out, _ = run("classify", model_server.grpc, "--csv", file)
    assert (code, len(rows(out))) == (0, 7500)


def test_lengths_from_a_pipe(model_server):
    done = subprocess.run(
        [*CHOPSTICK, "predict", model_server.grpc, "--csv", "-"],
        input="240\n250\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(done.stdout)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-5"], "'-5'"),
        (["240", "-inf"], "'-inf'"),
        (["0"], "'0' is not a positive"),
        (["nan"], "'nan' is not a finite"),
        (["inf"], "'inf' is not a finite"),
        (["long"], "'long' is not a number"),
        ([], "no lengths"),
        (["240", "--timeout", "0"], "timeout of 0.0"),
        (["240", "--timeout", "-1"], "--timeout -1"),
        (["240", "--timeout", "nan"], "timeout of nan"),
        (["240", "--csv", "x"], "both --csv x and lengths"),
        (["--csv", "no/such/file"], "cannot read no/such/file"),
        (["240", "--version", "1", "--label", "stable"], "both version 1 and label"),
        (["240", "--tls-cert", "c.pem"], "needs its key"),
        (["240", "--tls-ca", "no/such/ca"], "cannot read the CA file no/such/ca"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "classify"])
def test_what_is_wrong_is_said_before_anything_is_sent(run, command, words, message):
    accepted = []
    with listener(lambda _: None, accepted) as target:
        code, out, err = run(command, target, *words)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 2  # the message and the remedy
    assert accepted == []


def test_text_in_a_csv_names_file_line_and_value_and_sends_nothing(run, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text("length\n180\ntwo hundred\n")
    accepted = []
    with listener(lambda _: None, accepted) as target:
        code, out, err = run("predict", target, "--csv", file)
    assert (code, out, accepted) == (1, "", [])
    assert f"{file}, line 3: 'two hundred' is not a number" in err


def test_an_unknown_option_is_an_error_with_a_suggestion(run):
    code, _, err = run("predict", "h:1", "240", "--timout", "5")
    assert code == 2
    assert "--timeout" in err


@pytest.mark.parametrize("target", ["localhost", "http://h:1", "h:0", "h:x"])
def test_what_is_no_address(run, target):
    for command in (["predict", target, "240"], ["models", target]):
        code, _, err = run(*command)
        assert code == 1
        assert f"'{target}'" in err


@pytest.mark.parametrize("protocol", [[], ["--rest"]])
@pytest.mark.parametrize("command", [["predict", "240"], ["classify", "240"], ["models"]])
def test_nobody_there(run, command, protocol):
    name, *lengths = command
    target = f"127.0.0.1:{free_port()}"
    code, out, err = run(name, target, *lengths, *protocol)
    assert (code, out) == (1, "")
    assert target in err
    assert "chopstick up" in err


@pytest.mark.parametrize("protocol", [[], ["--rest"]])
def test_silence_ends_in_the_time_given(run, protocol):
    with listener(lambda _: None) as target:
        started = time.monotonic()
        code, _, err = run("predict", target, 240, "--timeout", 0.5, *protocol)
        assert time.monotonic() - started < 3
    assert code == 1
    assert "DEADLINE_EXCEEDED" in err
    assert target in err
    assert "--timeout" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nope"], "nope"),
        (["--version", "7"], "7"),
        (["--label", "nobody"], "nobody"),
        (["--signature", "nope"], "nope"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "classify"])
def test_what_the_server_does_not_have(run, to, command, words, message):
    code, out, err = run(command, *to, 240, *words)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 2


def test_models_that_nobody_serves(run, to):
    for words in (["--model", "nope"], ["--version", "7"]):
        code, out, err = run("models", *to, *words)
        assert (code, out) == (1, "")
        assert "NOT_FOUND" in err


def test_models_fails_when_no_version_is_available(run):
    body = b'{"model_version_status": [{"version": "3", "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "no\\tsuch file"}}]}'

    def answer(connection):
        connection.recv(65536)
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with listener(answer) as target:
        code, out, err = run("models", target, "--rest")
    assert code == 1
    (row,) = rows(out)
    assert (row["state"], row["error_message"]) == ("END", "no such file")
    assert "no version of model 'chopstick' is AVAILABLE" in err


def test_lengths_that_nobody_measured_are_noted(run, model_server):
    code, out, err = run("predict", model_server.grpc, 100, 240, 500)
    assert code == 0
    assert len(rows(out)) == 3
    assert err.startswith("note: 100, 500 mm: outside the measured 180 to 330 mm")


def test_a_load(run, to, tmp_path):
    file = tmp_path / "load.json"
    words = ["--rate", 100, "--duration", 0.6, "--connections", 2, "--json", file]
    code, out, _ = run("load", *to, *words)
    assert code == 0
    table = {row["name"]: row["value"] for row in rows(out)}
    assert (table["sent"], table["ok"], table["failed"]) == ("60", "60", "0")
    assert float(table["latency_p50_ms"]) <= float(table["latency_p99_ms"])
    result = json.loads(file.read_text())
    assert (result["ok"], result["connections"], result["failures"]) == (60, 2, [])
    assert [path.name for path in tmp_path.iterdir()] == ["load.json"]


def test_a_load_that_fails(run, tmp_path):
    target = f"127.0.0.1:{free_port()}"
    words = ["load", target, "--rate", 50, "--count", 5, "--timeout", 0.5]
    code, out, err = run(*words)
    assert code == 1
    assert "5 of 5 requests got no OK" in err
    failed = [row for row in rows(out) if row["name"].startswith("failed_")]
    assert sum(int(row["value"]) for row in failed) == 5
    assert target in failed[0]["detail"]
    code, out, _ = run(*words, "--max-failures", 5, "--json", "-")
    assert code == 0
    assert len(json.loads(out)["failures"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "0"], "rate 0"),
        (["--rate", "-1"], "--rate -1"),
        (["--rate", "nan"], "rate nan"),
        (["--rate", "1e12"], "rate 1e+12"),
        (["--rate", "1", "--duration", "0"], "duration 0"),
        (["--rate", "1", "--connections", "0"], "connections 0"),
        (["--rate", "1", "--rows", "0"], "rows 0"),
        (["--rate", "1", "--timeout", "0"], "timeout 0"),
        (["--rate", "1", "--max-failures", "-2"], "--max-failures -2"),
        (["--rate", "1", "--json", "no/such/folder/x.json"], "no/such/folder/x.json"),
    ],
)
def test_absurd_loads_are_refused(run, words, message):
    accepted = []
    with listener(lambda _: None, accepted) as target:
        code, out, err = run("load", target, *words)
    assert (code, out, accepted) == (1, "", [])
    assert message in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_load_prints_what_there_is(model_server, tmp_path, number):
    file = tmp_path / "load.json"
    process = subprocess.Popen(
        [*CHOPSTICK, "load", model_server.grpc, "--rate", "100", "--duration", "600",
         "--json", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        # What shows from outside that the load runs is the server's counter.
        before = answered(model_server)
        wait_for(lambda: answered(model_server) > before + 30, "the load to run")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, err
    table = {row["name"]: row["value"] for row in rows(out)}
    assert int(table["ok"]) >= 30
    assert table["failed"] == "0"
    assert json.loads(file.read_text())["stopped"] is True
    assert "Traceback" not in err


def answered(server):
    import httpx

    page = httpx.get(
        f"http://{server.rest}/monitoring/prometheus/metrics", trust_env=False, timeout=10
    ).text
    for line in page.splitlines():
        if line.startswith(':tensorflow:serving:request_count{model_name="chopstick",status="OK"}'):
            return float(line.split()[-1])
    return 0.0


def test_a_second_interrupt_does_not_wait_for_answers():
    connected = threading.Event()
    with listener(lambda _: connected.set()) as target:
        process = subprocess.Popen(
            [*CHOPSTICK, "load", target, "--rate", "100", "--duration", "600", "--timeout", "600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert connected.wait(20)
            time.sleep(1.5)  # the second it takes to give up connecting, then requests under way
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "sent" in out
    assert "Traceback" not in err


def test_help_shows_an_example():
    for command in ("predict", "classify", "load"):
        done = subprocess.run(
            [*CHOPSTICK, command, "--help"], capture_output=True, text=True, check=True
        )
        assert f"  chopstick {command} 127.0.0.1:8500 " in done.stdout
