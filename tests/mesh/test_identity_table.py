"""The table of `cases/identity.py`: whole, and no looser than the policy was meant."""

from tests.mesh.cases.identity import REQUESTS, _expected

REFUSED = {"PERMISSION_DENIED", "403"}
STRANGERS = ("other", "unmeshed", "host network")
# What the kubelet asks is open to everybody.
OPEN = {"/readyz (8502)"}


def cells():
    header, rows = _expected()
    return {row: dict(zip(header[1:], codes, strict=True)) for row, codes in rows.items()}


def test_every_row_has_a_request():
    assert cells().keys() == REQUESTS.keys()


def test_strangers_get_nothing():
    let_in = {
        (row, caller)
        for row, codes in cells().items()
        for caller in STRANGERS
        if codes[caller] not in REFUSED
    }
    assert let_in == {(row, caller) for row in OPEN for caller in STRANGERS}


def test_without_a_key_the_ingress_passes_nothing_on():
    told = {codes["no key"] for codes in cells().values()}
    assert told == {"UNAUTHENTICATED", "UNIMPLEMENTED", "401", "404", "-"}


def test_a_client_is_refused_what_an_admin_may():
    admin_alone = {
        row
        for row, codes in cells().items()
        if codes["model-client"] in REFUSED and codes["model-admin"] not in REFUSED
    }
    assert admin_alone == {
        "reload", "SessionRun", "unknown RPC", "unknown service", "unknown path", "wrong method",
    }  # fmt: skip
