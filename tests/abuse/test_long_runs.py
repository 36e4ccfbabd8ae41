"""Small versions of `make soak`."""

import shutil
from pathlib import Path

from tests.abuse.conftest import warm
from tests.abuse.soak import Switcher, endurance, switches
from tests.support.servers import ModelServer


def test_mixed_requests_leave_nothing_behind(shared_server: ModelServer) -> None:
    report = endurance(shared_server, 800, 2400)
    assert not report.wrong
    assert report.growth < 1.10, str(report)
    assert report.last.threads <= report.first.threads, str(report)
    assert report.last.descriptors <= report.first.descriptors, str(report)


def test_ten_version_switches_under_load(chopstick_models: Path, tmp_path: Path) -> None:
    base = tmp_path / "switched"
    base.mkdir()
    switcher = Switcher(chopstick_models / "1", base)
    switcher.add()
    with ModelServer(tmp_path, base) as server:
        warm(server)
        report, answered, left = switches(server, switcher, 2, 10)
    assert not report.wrong
    assert answered > 10
    assert left == []
    assert report.last.rss < report.first.rss + 30, str(report)
    assert report.last.descriptors <= report.first.descriptors, str(report)
    shutil.rmtree(base)
