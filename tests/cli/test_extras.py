"""An installation with few extras: which one a command needs is said, without a traceback."""

import subprocess
import sys

import pytest

# Hides a library from a fresh interpreter, as if it had not been installed.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "yaml", "httpx", "numpy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from serving.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "--out", "unused"], "model"),
        (["up"], "all"),
        (["predict", "127.0.0.1:9", "240"], "client"),
    ],
)
def test_the_extra_that_is_missing_is_named(arguments: list[str], extra: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HIDE, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert f"chopstick {arguments[0]} needs" in ended.stderr
    assert f"chopstick-serving[{extra}]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_and_verify_need_no_extra(tmp_path: object) -> None:
    for arguments in (["--help"], ["verify", "--help"], ["serve", "--help"]):
        ended = subprocess.run(
            [sys.executable, "-c", HIDE, *arguments], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
