"""The mark of origin: every picture and video that is written here says that it is synthetic, and by which model.

Content Credentials (C2PA), signed with a key that is made at first use and kept in the user's folder, or with the
user's own: a PEM file with private key and certificate chain that UNIFACE_SIGNER names. Where a format has no place
for them, XMP says the same. The mark proves nothing against who removes it; it lets honest people tell.
"""

import datetime
import io
import json
import os
import re
from dataclasses import asdict, dataclass
from html import unescape
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

PURE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
NAME = "UniFace workflow"
ASSERTION = "org.uniface.model"
MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".avi": "video/avi",
}
"""Formats with a place for Content Credentials."""
XMP_ONLY = (".jp2",)
"""Pictures with a place for XMP alone."""
XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
"""Of JPEG 2000 (ISO 16684-3): the identifier of the box that holds XMP."""
TAGS_ONLY = (".mkv", ".webm")
"""Videos with a place for tags alone."""
YEARS = 10  # that a certificate made here is valid


@dataclass(frozen=True)
class Mark:
    """What is said of a file: the `task`, whether it is all the model's or composed with a picture, and the model."""

    task: str
    composite: bool
    version: str
    digest: str  # sha256 of the model file

    @property
    def source_type(self) -> str:
        """IPTC's digital source type."""
        return COMPOSITE if self.composite else PURE


@dataclass(frozen=True)
class Verdict:
    """`state` is valid (signed here or by whom the user trusts), untrusted, tampered or none; `mark` what it says."""

    state: Literal["valid", "untrusted", "tampered", "none"]
    reason: str
    mark: dict[str, Any]


def check(path: str | Path) -> None:
    """Raise ValueError if a file with this suffix could not be marked, before any work is done for it."""
    suffix = Path(path).suffix.lower()
    if suffix in MEDIA:
        _library()
    elif suffix not in (*XMP_ONLY, *TAGS_ONLY):
        raise ValueError(
            f"{path}: the format {suffix or 'without a suffix'} has no place for a mark of origin: "
            "use .png, .jpg, .webp or .mp4, or leave the mark out (--no-mark)"
        )


def seal(unsigned: Path, path: Path, mark: Mark | None, parent: Path | None = None) -> None:
    """Move the finished file `unsigned` to `path`, with its mark if there is one, atomically.

    `parent` is the original that was edited. Videos in `TAGS_ONLY` carry their tags already. Raises ValueError where
    c2pa-python is missing or refuses; `unsigned` is gone in any case.
    """
    suffix = path.suffix.lower()
    part = path.with_name(f".{path.stem}.{os.getpid()}.signed{path.suffix}")
    try:
        if mark is None or suffix in TAGS_ONLY:
            part = unsigned
        elif suffix in XMP_ONLY:
            part = unsigned
            _append_xmp(part, mark)
        else:
            with open(unsigned, "rb") as source, open(part, "w+b") as out:
                _sign(MEDIA[suffix], source, out, mark, path.name, parent)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        unsigned.unlink(missing_ok=True)


def sign_bytes(data: bytes, media: str, mark: Mark) -> bytes:
    """A picture file's bytes of the media type, such as image/png, with the mark."""
    out = io.BytesIO()
    _sign(media, io.BytesIO(data), out, mark, "picture", None)
    return out.getvalue()


def _sign(media: str, source: Any, out: Any, mark: Mark, title: str, parent: Path | None) -> None:
    c2pa = _library()
    if parent is not None and parent.suffix.lower() not in MEDIA:
        parent = None
    action = {
        "action": "c2pa.edited" if parent else "c2pa.created",
        "digitalSourceType": mark.source_type,
        "softwareAgent": {"name": NAME, "version": metadata.version("uniface-workflow")},
    }
    manifest = {
        "claim_generator_info": [{"name": NAME, "version": metadata.version("uniface-workflow")}],
        "title": title,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
            {"label": ASSERTION, "data": asdict(mark)},
        ],
    }
    # a thumbnail would be most of the mark
    settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    try:
        with c2pa.Context(settings=settings) as context, c2pa.Builder(manifest, context=context) as builder:
            if parent:
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                with open(parent, "rb") as original:
                    ingredient = {"title": parent.name, "relationship": "parentOf"}
                    builder.add_ingredient(ingredient, MEDIA[parent.suffix.lower()], original)
            key, chain = _signer()
            with c2pa.Signer.from_info(
                c2pa.C2paSignerInfo(_algorithm(key), chain.encode(), key.encode(), None)
            ) as signer:
                builder.sign(signer, media, source, out)
    except c2pa.C2paError as error:
        raise ValueError(f"{title} could not be given its mark of origin: {error}; --no-mark leaves it out") from error


def _append_xmp(file: Path, mark: Mark) -> None:
    """Put a box with an XMP packet behind the last of a JPEG 2000 file."""
    said = quoteattr(json.dumps(asdict(mark)))
    packet = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:uniface="https://uniface.invalid/ns/" '
        f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool={quoteattr(NAME)} '
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(mark.source_type)} uniface:mark={said}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
    with open(file, "ab") as out:
        out.write((8 + len(XMP_BOX) + len(packet)).to_bytes(4, "big") + b"uuid" + XMP_BOX + packet)


def verify(path: str | Path) -> Verdict:
    """What a file says of its origin, and whether that holds. Raises FileNotFoundError, or ValueError without c2pa."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    media = MEDIA.get(path.suffix.lower())
    if media is None:
        return _unsigned(path)
    c2pa = _library()
    trusted = _own_certificate()
    settings = c2pa.Settings.from_dict({"trust": {"user_anchors": trusted}} if trusted else {})
    try:
        with (
            open(path, "rb") as file,
            c2pa.Context(settings=settings) as context,
            c2pa.Reader(media, file, context=context) as reader,
        ):
            return _judged(reader, json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        return _unsigned(path)
    except c2pa.C2paError as error:  # a manifest so broken that it cannot be read
        return Verdict("tampered", str(error), {})


def _judged(reader: Any, found: dict[str, Any]) -> Verdict:
    active = found["manifests"][found["active_manifest"]]
    signer = active.get("signature_info", {})
    said: dict[str, Any] = {"generator": [info.get("name") for info in active.get("claim_generator_info", [])]}
    said["signer"] = signer.get("common_name") or signer.get("issuer")
    for assertion in active.get("assertions", []):
        if assertion["label"] == ASSERTION:
            said |= assertion["data"]
        if assertion["label"].startswith("c2pa.actions"):
            types = [action.get("digitalSourceType") for action in assertion["data"]["actions"]]
            said["digitalSourceType"] = next(filter(None, types), None)
    state = reader.get_validation_state()
    failures = found.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    if state == "Trusted":
        return Verdict("valid", "signed with this user's certificate", said)
    if state == "Valid":
        return Verdict("untrusted", f"whole, but nobody here knows the signer {said['signer']}", said)
    return Verdict("tampered", "; ".join(failure["explanation"] for failure in failures) or "changed since", said)


def _unsigned(path: Path) -> Verdict:
    """What XMP or tags say where there are no Content Credentials; anybody can write such words."""
    said = _tags(path) if path.suffix.lower() in TAGS_ONLY else _packet(path)
    if said is None:
        return Verdict("none", "no mark of origin", {})
    return Verdict("untrusted", "XMP or tags say so, and nobody signed them", said)


def _packet(path: Path) -> dict[str, Any] | None:
    _, found, rest = path.read_bytes().partition(b"uniface:mark=")
    if not found:
        return None
    return json.loads(unescape(rest[1:].partition(rest[:1])[0].decode(errors="replace")))


def _tags(path: Path) -> dict[str, Any] | None:
    import av

    try:
        with av.open(str(path)) as container:
            tags = {name.upper(): value for name, value in container.metadata.items()}
    except av.FFmpegError:
        return None
    return json.loads(tags[TAG]) if TAG in tags else None


TAG = "UNIFACE_MARK"


def tags(mark: Mark) -> dict[str, str]:
    """The mark as tags of a video container."""
    return {TAG: json.dumps(asdict(mark)), "DIGITAL_SOURCE_TYPE": mark.source_type}


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise ValueError(
            "the mark of origin needs c2pa-python, which is not installed: pip install c2pa-python==0.38.1, "
            "or leave the mark out (--no-mark)"
        ) from error
    return c2pa


def _signer_file() -> Path:
    """Where private key and certificate chain are: UNIFACE_SIGNER, or a file in this user's folder."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("UNIFACE_SIGNER") or home / "uniface" / "signer.pem")


def _own_certificate() -> str | None:
    file = _signer_file()
    return _split(file)[1] if file.is_file() else None


def _signer() -> tuple[str, str]:
    """(private key, certificate chain) as PEM, made at first use."""
    file = _signer_file()
    if not file.is_file():
        if os.environ.get("UNIFACE_SIGNER"):
            raise FileNotFoundError(f"no file at {file}, which UNIFACE_SIGNER names")
        _make(file)
    return _split(file)


def _split(file: Path) -> tuple[str, str]:
    blocks = list(re.finditer(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----\n?", file.read_text(), re.DOTALL))
    keys = [block.group() for block in blocks if block[1].endswith("PRIVATE KEY")]
    chain = [block.group() for block in blocks if block[1] == "CERTIFICATE"]
    if len(keys) != 1 or not chain:
        raise ValueError(f"{file} must hold one private key and its certificates as PEM")
    return keys[0], "".join(chain)


def _algorithm(key: str) -> bytes:
    """The name of the signature's algorithm that fits a private key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        loaded = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_signer_file()} holds no private key without a password: {error}") from error
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(loaded, ec.EllipticCurvePrivateKey):
        return {256: b"es256", 384: b"es384", 521: b"es512"}[loaded.key_size]
    return b"ps256"


def _make(file: Path) -> None:
    """Write a key and a self-signed certificate. C2PA refuses one without an extended key usage."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, NAME),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{NAME} {os.urandom(4).hex()}"),  # not the user's name
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, encipher_only=False, decipher_only=False, **usage), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(secret + certificate.public_bytes(serialization.Encoding.PEM))
    try:
        os.link(part, file)
    except FileExistsError:  # another process was first: its key is as good
        pass
    finally:
        part.unlink()
