"""The corpus of what once failed, and a short run of `make fuzz`."""

import os
import zlib

import pytest

from serving.server import inflate
from tests.fuzz.run import fuzz
from tests.fuzz.targets import CORPUS, TARGETS

FILES = sorted(path for target in TARGETS for path in (CORPUS / target).iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_corpus(path):
    TARGETS[path.parent.name][0](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run(target):
    assert fuzz(target, 250, int.from_bytes(os.urandom(4), "big")) >= 200


def test_every_corpus_folder_has_a_target():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("wbits", [31, 15], ids=["gzip", "zlib"])
def test_inflates_to_the_limit_and_not_beyond(wbits):
    stream = zlib.compressobj(wbits=wbits)
    data = stream.compress(bytes(1000)) + stream.flush()
    assert inflate.is_compressed(data)
    assert inflate.inflate(data, 1000) == bytes(1000)
    with pytest.raises(inflate.TooLargeError):
        inflate.inflate(data, 999)
