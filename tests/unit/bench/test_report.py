"""What the benchmarks count and write; no figure is measured here."""

import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.bench import wire
from tests.bench.compare import Result, Table, ratio
from tests.bench.peers import infer_message
from tests.bench.report import insert, markdown
from tests.bench.wire import LoadError, Sample, quantile, sample

MACHINE = {
    "command": "make bench",
    "date": "2026-01-02",
    "cpu": "a processor",
    "cores": 2,
    "server_core": 0,
    "client_core": 1,
    "memory_gb": 8,
    "kernel": "6.1",
    "versions": {"python": "3.11"},
}


def test_quantile_is_the_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert quantile(ordered, 0.5) == 50
    assert quantile(ordered, 0.99) == 99
    assert quantile(ordered, 1) == 100
    assert quantile([7.0], 0.99) == 7


def test_sample_is_in_milliseconds_and_refuses_nothing() -> None:
    assert sample([0.001, 0.002, 0.003], 2.0) == Sample(1.5, 2.0, 3.0, 3)
    with pytest.raises(LoadError, match="no answer"):
        sample([], 1.0)


def test_ratio_is_the_median_of_the_rounds() -> None:
    def result(*rates: float) -> Result:
        return Result([Sample(rate, 1, 1, 1) for rate in rates])

    assert ratio(result(10, 20, 90), result(10, 10, 10)) == 2
    assert result(1000, 3000, 2000).spread == "1,000 to 3,000"


def test_page_keeps_what_is_not_generated() -> None:
    page = "Words.\n<!-- begin x -->\nold\n<!-- end x -->\nMore.\n"
    assert insert(page, "x", "new\n") == "Words.\n<!-- begin x -->\nnew\n<!-- end x -->\nMore.\n"
    with pytest.raises(ValueError, match="no markers for y"):
        insert(page, "y", "new\n")


def test_table_says_whether_its_target_is_met() -> None:
    table = Table("t", "Title", ["a", "b"], [["1", "2"]], ["A note."], target="at least 0.5")
    table.judge(0.4, at_least=0.5)
    text = markdown([table], MACHINE)
    assert "### Title\n\nTarget: at least 0.5: **missed**." in text
    assert "| a | b |\n|---|---:|\n| 1 | 2 |\n\nA note.\n" in text
    assert text.startswith("`make bench`, 2026-01-02: a processor, 2 cores, 8 GB, Linux 6.1;")


def test_page_has_the_markers() -> None:
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text()
    for name in ("server", "peers"):
        assert insert(page, name, "") != ""


def test_peers_get_a_valid_inference_request() -> None:
    data = infer_message(np.array([[1.0], [2.0]], np.float32))
    # grpc_predict_v2.proto: model_name = 1, inputs = 5, raw_input_contents = 7.
    assert data.startswith(b"\x0a\x09chopstick\x2a")
    assert data.endswith(b"\x3a\x08" + struct.pack("<2f", 1.0, 2.0))


def test_a_failed_http_answer_ends_the_measurement() -> None:
    answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
    with pytest.raises(LoadError, match="500 Oops"):
        wire._answer_end(answer)
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    assert wire._answer_end(whole[:-1]) is None
    assert wire._answer_end(whole + b"HTTP") == len(whole)


def test_a_failed_grpc_call_ends_the_measurement() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def trailers_only() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(wire._frame(4, 0, 0) + wire._frame(1, 5, 1, b"\x88"))
            connection.recv(65536)

    thread = threading.Thread(target=trailers_only)
    thread.start()
    load = wire.GrpcLoad(f"127.0.0.1:{listener.getsockname()[1]}", "/a.B/C", b"message")
    with pytest.raises(LoadError, match="a call failed"):
        load.measure(1, 5.0)
    load.close()
    thread.join()
    listener.close()
