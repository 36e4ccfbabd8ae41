"""The mesh's trust anchor and issuer: ECDSA P-256, the names and uses that Linkerd asks for.

The anchor signs the issuer, the issuer signs a certificate for each proxy every day. A folder holds
ca.crt, ca.key, issuer.crt and issuer.key, names that Linkerd's own instructions use. The cluster
gets all but ca.key, which is best kept somewhere else: it is needed only for the next issuer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scripts.mesh.versions import ROOT
from serving.errors import ChopstickError

DIRECTORY = ROOT / ".mesh" / "certificates"
ANCHOR, ANCHOR_KEY, ISSUER, ISSUER_KEY = "ca.crt", "ca.key", "issuer.crt", "issuer.key"
FILES = (ANCHOR, ANCHOR_KEY, ISSUER, ISSUER_KEY)
TRUST_DOMAIN = "cluster.local"
# Clocks of nodes that are behind ours by less than this accept the certificates at once.
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Chain:
    """What a folder of certificates holds, without the keys.

    `anchors` is PEM, `anchors_end` the day on which the first of them expires.
    """

    directory: Path
    anchors: str
    anchors_end: datetime
    issuer_end: datetime
    has_anchor_key: bool
    readable_by_others: tuple[str, ...]

    def path(self, name: str) -> str:
        """Where a file of the folder is."""
        return str(self.directory / name)


def make(directory: Path, *, days: int, anchor_days: int) -> Chain:
    """Write a new anchor and issuer into `directory`, 0600 in 0700, all four files or none.

    `days` is how long the issuer is valid, `anchor_days` how long the anchor. Raises
    ChopstickError, with nothing written, where one of the files is there already, where git would
    take them in, and for an issuer that outlives its anchor.
    """
    if days > anchor_days:
        raise ChopstickError(
            f"an issuer of {days} days outlives its anchor of {anchor_days} days",
            "Give fewer --days or more --anchor-days.",
        )
    there = [name for name in FILES if (directory / name).exists()]
    if there:
        raise ChopstickError(
            f"'{directory}' holds {', '.join(there)} already",
            "--rotate-issuer replaces the issuer alone. A new anchor ends every connection between"
            " running proxies: docs/mesh.md tells how to bring one in; for it, or where no cluster"
            " uses this one, choose another --directory.",
        )
    if directory.exists() and any(directory.iterdir()):
        raise ChopstickError(
            f"'{directory}' is not empty", "Choose a --directory that is, or a new one."
        )
    refuse_git(directory)
    anchor_key = ec.generate_private_key(ec.SECP256R1())
    anchor = _certify(
        f"root.linkerd.{TRUST_DOMAIN}", anchor_key, days=anchor_days, path_length=1, by=None
    )
    issuer_key, issuer = _new_issuer(anchor, anchor_key, days)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place and renamed into it, so that a folder with half of the files can't be.
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, content in (
            (ANCHOR, _pem(anchor)),
            (ANCHOR_KEY, _pem_key(anchor_key)),
            (ISSUER, _pem(issuer)),
            (ISSUER_KEY, _pem_key(issuer_key)),
        ):
            _write(work / name, content)
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return read(directory)


def rotate_issuer(directory: Path, *, days: int, anchor_key: Path | None = None) -> Chain:
    """Replace issuer.crt and issuer.key by new ones of the same anchor.

    `anchor_key` is the anchor's key where it is not in the folder. Raises ChopstickError when it
    is missing, is not the anchor's, or when the anchor ends before the issuer would.
    """
    path = anchor_key or directory / ANCHOR_KEY
    anchors = _read_anchors(directory)
    key = _read_key(path, "Give the place where you keep it: --anchor-key FILE")
    # The newest comes first where a bundle holds two.
    anchor = next((each for each in anchors if each.public_key() == key.public_key()), None)
    if anchor is None:
        raise ChopstickError(
            f"'{path}' is not the key of an anchor in '{directory / ANCHOR}'",
            "Give the key that belongs to it: --anchor-key FILE",
        )
    left = (anchor.not_valid_after_utc - datetime.now(UTC)).days
    if days > left:
        raise ChopstickError(
            f"the anchor ends in {left} days, before an issuer of {days} days",
            f"Give --days {max(left, 1)} or fewer, and plan a new anchor: docs/mesh.md.",
        )
    refuse_git(directory)
    issuer_key, issuer = _new_issuer(anchor, key, days)
    # Two files can't change at one instant; `read` refuses a pair that doesn't match, and this
    # command run again mends it.
    for name, content in ((ISSUER_KEY, _pem_key(issuer_key)), (ISSUER, _pem(issuer))):
        handle, work = tempfile.mkstemp(prefix=f".{name}-", dir=directory)
        os.close(handle)
        _write(Path(work), content)
        Path(work).replace(directory / name)
    return read(directory)


def read(directory: Path) -> Chain:
    """Read and check a folder: the key is the issuer's, an anchor signed it, both may sign.

    Raises ChopstickError naming the file and what is wrong with it. Dates are left to the caller.
    """
    anchors = _read_anchors(directory)
    issuer = _read_certificates(directory / ISSUER)[0]
    key = _read_key(directory / ISSUER_KEY, f"Make one: make mesh-cert, or copy it to {directory}.")
    again = "Make the issuer again: make mesh-cert ARGS=--rotate-issuer"
    if key.public_key() != issuer.public_key():
        raise ChopstickError(f"{ISSUER_KEY} is not the key of {ISSUER} in '{directory}'", again)
    if not isinstance(key.curve, ec.SECP256R1):
        raise ChopstickError(
            f"the issuer's key is {key.curve.name}, Linkerd wants ECDSA P-256", again
        )
    if not any(_signed(issuer, anchor) for anchor in anchors):
        raise ChopstickError(f"no anchor in {ANCHOR} signed {ISSUER} in '{directory}'", again)
    for name, certificate in ((ISSUER, issuer), *((ANCHOR, anchor) for anchor in anchors)):
        if not _may_sign(certificate):
            raise ChopstickError(
                f"{name} in '{directory}' is not an authority's certificate", again
            )
    return Chain(
        directory=directory,
        anchors="".join(_pem(anchor).decode() for anchor in anchors),
        anchors_end=min(anchor.not_valid_after_utc for anchor in anchors),
        issuer_end=issuer.not_valid_after_utc,
        has_anchor_key=(directory / ANCHOR_KEY).exists(),
        readable_by_others=tuple(
            name
            for name in (ANCHOR_KEY, ISSUER_KEY)
            if (directory / name).exists() and (directory / name).stat().st_mode & 0o077
        ),
    )


def fingerprints(pem: str) -> Mapping[str, str]:
    """SHA-256 of each certificate in a PEM text, in hexadecimal, to its subject."""
    return {
        certificate.fingerprint(hashes.SHA256()).hex(): certificate.subject.rfc4514_string()
        for certificate in x509.load_pem_x509_certificates(pem.encode())
    }


def signed_by(issuer: str, anchors: str) -> bool:
    """Whether one of the anchors signed the issuer; both are PEM."""
    signers = x509.load_pem_x509_certificates(anchors.encode())
    return any(
        _signed(x509.load_pem_x509_certificate(issuer.encode()), anchor) for anchor in signers
    )


def refuse_git(directory: Path) -> None:
    """Raise ChopstickError when `directory` is in a git checkout that doesn't ignore it."""
    git = shutil.which("git")
    place = directory.absolute()
    existing = next(parent for parent in (place, *place.parents) if parent.is_dir())
    if git is None:
        return
    # 0 ignored, 1 not ignored, 128 no checkout.
    done = subprocess.run(
        [git, "-C", str(existing), "check-ignore", "-q", str(place / ISSUER_KEY)],
        check=False,
        capture_output=True,
    )
    if done.returncode == 1:
        raise ChopstickError(
            f"'{directory}' is in a git checkout that doesn't ignore it: the keys could be committed",
            "Choose a --directory outside, or name the folder in .gitignore.",
        )


def _new_issuer(
    anchor: x509.Certificate, anchor_key: ec.EllipticCurvePrivateKey, days: int
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"identity.linkerd.{TRUST_DOMAIN}"
    # Path length 0: it signs proxies and no further authority.
    return key, _certify(name, key, days=days, path_length=0, by=(anchor, anchor_key))


def _certify(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    days: int,
    path_length: int,
    by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> x509.Certificate:
    """An authority's certificate for `key`, signed by `by`, or by itself."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signer_key = by or (None, key)
    identifier = x509.SubjectKeyIdentifier.from_public_key
    uses = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **uses), critical=True)
        .add_extension(identifier(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()),
            critical=False,
        )
        .sign(signer_key, hashes.SHA256())
    )


def _signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _read_anchors(directory: Path) -> list[x509.Certificate]:
    return _read_certificates(directory / ANCHOR)


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise ChopstickError(
            f"there is no certificate '{path}'",
            "Make the mesh's certificates: make mesh-cert. Or name their folder:"
            " --certificates DIR for the installation, --directory DIR for a new issuer.",
        ) from None
    except OSError as error:
        raise ChopstickError(f"cannot read '{path}': {error.strerror}") from None
    except ValueError:
        raise ChopstickError(f"'{path}' holds no PEM certificate") from None


def _read_key(path: Path, remedy: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ChopstickError(f"cannot read the key '{path}': {error.strerror}", remedy) from None
    except (ValueError, TypeError):
        raise ChopstickError(f"'{path}' holds no PEM key without a password", remedy) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ChopstickError(f"'{path}' holds no elliptic-curve key, which Linkerd wants", remedy)
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    # SEC 1 ("EC PRIVATE KEY"), what Linkerd's instructions make; it reads PKCS#8 as well.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read, and have it on the disk before it gets its name."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(handle)
