"""The mesh's certificates: what they say, who can read them, and that they are never lost."""

from __future__ import annotations

import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from scripts.mesh import certificates as certs
from serving.errors import ChopstickError

ROOT = Path(__file__).resolve().parents[3]
GIT = str(shutil.which("git"))


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def key(path: Path) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certs.make(tmp_path / "certificates", days=365, anchor_days=3650)
    return tmp_path / "certificates"


def test_files_and_folder_are_the_owners_alone(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == set(certs.FILES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("name", "subject", "path_length", "days"),
    [
        ("ca.crt", "CN=root.linkerd.cluster.local", 1, 3650),
        ("issuer.crt", "CN=identity.linkerd.cluster.local", 0, 365),
    ],
)
def test_authorities_are_what_linkerd_asks_for(
    folder: Path, name: str, subject: str, path_length: int, days: int
) -> None:
    found = certificate(folder / name)
    assert found.subject.rfc4514_string() == subject
    public = found.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    assert isinstance(found.signature_hash_algorithm, hashes.SHA256)
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, path_length)
    usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    left = found.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=days) - left < timedelta(minutes=5)


def test_a_proxys_certificate_of_this_issuer_is_accepted(folder: Path) -> None:
    """As the identity service signs one and another proxy verifies it, with path lengths."""
    name = "model-client.chopstick.serviceaccount.identity.linkerd.cluster.local"
    now, proxy = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    issuer = certificate(folder / "issuer.crt")
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(proxy.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(seconds=20))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
        .sign(key(folder / "issuer.key"), hashes.SHA256())
    )
    store = verification.Store([certificate(folder / "ca.crt")])
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
    assert len(verifier.verify(leaf, [issuer])) == 3


def test_openssl_accepts_the_chain(folder: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("missing tool: openssl")
    command = [openssl, "verify", "-x509_strict", "-CAfile"]
    done = subprocess.run(
        [*command, folder / "ca.crt", folder / "issuer.crt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_overwritten(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(ChopstickError, match=r"holds ca\.crt, ca\.key, issuer\.crt, issuer\.key"):
        certs.make(folder, days=1, anchor_days=1)
    (folder / "ca.crt").unlink()
    with pytest.raises(ChopstickError, match=r"holds ca\.key"):
        certs.make(folder, days=1, anchor_days=1)
    assert contents(folder) == {name: before[name] for name in before if name != "ca.crt"}


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ChopstickError, match="is not empty"):
        certs.make(tmp_path, days=1, anchor_days=1)
    assert contents(tmp_path) == {"notes": b"mine"}


def test_a_failure_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = certs._write

    def full_disk(path: Path, content: bytes) -> None:
        if path.name == "issuer.crt":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(certs, "_write", full_disk)
    with pytest.raises(OSError, match="No space"):
        certs.make(tmp_path / "certificates", days=1, anchor_days=1)
    assert list(tmp_path.iterdir()) == []


def test_an_issuer_may_not_outlive_its_anchor(tmp_path: Path) -> None:
    with pytest.raises(ChopstickError, match="outlives"):
        certs.make(tmp_path / "certificates", days=2, anchor_days=1)
    certs.make(tmp_path / "certificates", days=5, anchor_days=10)
    with pytest.raises(ChopstickError, match="before an issuer of 30 days") as caught:
        certs.rotate_issuer(tmp_path / "certificates", days=30)
    assert "--days" in caught.value.remedy


def test_rotation_changes_the_issuer_alone(folder: Path) -> None:
    before = contents(folder)
    certs.rotate_issuer(folder, days=100)
    after = contents(folder)
    assert set(after) == set(before)
    assert {name for name in before if after[name] != before[name]} == {"issuer.crt", "issuer.key"}
    assert stat.S_IMODE((folder / "issuer.key").stat().st_mode) == 0o600
    assert (certs.read(folder).issuer_end - datetime.now(UTC)).days in (99, 100)


def test_rotation_with_the_anchors_key_elsewhere(folder: Path, tmp_path: Path) -> None:
    (folder / "ca.key").rename(tmp_path / "offline.key")
    assert not certs.read(folder).has_anchor_key
    before = contents(folder)
    with pytest.raises(ChopstickError, match=r"ca\.key") as caught:
        certs.rotate_issuer(folder, days=10)
    assert "--anchor-key" in caught.value.remedy
    with pytest.raises(ChopstickError, match="is not the key of an anchor"):
        certs.rotate_issuer(folder, days=10, anchor_key=folder / "issuer.key")
    assert contents(folder) == before
    certs.rotate_issuer(folder, days=10, anchor_key=tmp_path / "offline.key")
    assert contents(folder)["ca.crt"] == before["ca.crt"]


def test_rotation_with_a_bundle_takes_the_anchor_of_the_key(folder: Path, tmp_path: Path) -> None:
    """While anchors change, ca.crt holds both."""
    certs.make(tmp_path / "next", days=5, anchor_days=10)
    both = (folder / "ca.crt").read_bytes() + (tmp_path / "next" / "ca.crt").read_bytes()
    (folder / "ca.crt").write_bytes(both)
    chain = certs.rotate_issuer(folder, days=5, anchor_key=tmp_path / "next" / "ca.key")
    assert len(certs.fingerprints(chain.anchors)) == 2
    issuer = certificate(folder / "issuer.crt")
    issuer.verify_directly_issued_by(certificate(tmp_path / "next" / "ca.crt"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ca.crt", None, "there is no certificate"),
        ("ca.crt", b"nonsense", "holds no PEM certificate"),
        ("issuer.key", None, "cannot read the key"),
        ("issuer.key", b"nonsense", "holds no PEM key"),
    ],
)
def test_a_broken_folder_is_named(
    folder: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ChopstickError, match=message) as caught:
        certs.read(folder)
    assert name in caught.value.message


def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    certs.make(other, days=5, anchor_days=10)
    whole = contents(folder)
    for name, message in (
        ("issuer.key", "is not the key of issuer.crt"),
        ("ca.crt", "no anchor in ca.crt signed"),
    ):
        shutil.copy(other / name, folder / name)
        with pytest.raises(ChopstickError, match=message):
            certs.read(folder)
        (folder / name).write_bytes(whole[name])
    certs.read(folder)


def test_keys_that_others_can_read_are_found(folder: Path) -> None:
    assert certs.read(folder).readable_by_others == ()
    (folder / "issuer.key").chmod(0o640)
    assert certs.read(folder).readable_by_others == ("issuer.key",)


def test_git_ignores_the_usual_folder_and_any_other_in_a_checkout_is_refused(
    tmp_path: Path,
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    for name in certs.FILES:
        done = subprocess.run([GIT, "check-ignore", "-q", certs.DIRECTORY / name], cwd=ROOT)
        assert done.returncode == 0, name
    certs.refuse_git(certs.DIRECTORY)
    subprocess.run([GIT, "init", "-q", tmp_path], check=True)
    with pytest.raises(ChopstickError, match="could be committed"):
        certs.make(tmp_path / "mesh" / "keys", days=1, anchor_days=1)
    assert not (tmp_path / "mesh").exists()
    (tmp_path / ".gitignore").write_text("/mesh/\n")
    certs.make(tmp_path / "mesh" / "keys", days=1, anchor_days=1)
