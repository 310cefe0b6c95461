"""What Countersign signs and how it is checked, written from the .proto files and the test vectors alone.

Nothing here knows of gRPC or of any message: bytes are signed and checked.
"""

import dataclasses
import hashlib
import hmac
import re
import struct
import urllib.parse

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

ED25519 = "ED25519"
ES256 = "ES256"

# The order of P-256's group (SEC 2, section 2.4.2).
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Refused(Exception):
    """What came is not what it should be."""


# ---- signatures ----


def payload_type(message):
    """Of a message's name in kebab case, such as "challenge"."""
    return f"application/vnd.countersign.{message}.v1+protobuf"


def pre_authentication_encoding(kind, payload):
    """DSSE, version 1.0.2: what gets signed."""
    kind = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


class SigningKey:
    """A private key of either algorithm."""

    def __init__(self, private):
        self._private = private

    @classmethod
    def generate(cls, algorithm):
        if algorithm == ED25519:
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_seed(cls, seed):
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pkcs8(cls, pkcs8):
        return cls(serialization.load_der_private_key(pkcs8, password=None))

    @property
    def algorithm(self):
        return ED25519 if isinstance(self._private, ed25519.Ed25519PrivateKey) else ES256

    @property
    def public_key(self):
        public = self._private.public_key()
        if self.algorithm == ED25519:
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        else:
            raw = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        return PublicKey(self.algorithm, raw)

    def sign(self, kind, payload):
        message = pre_authentication_encoding(kind, payload)
        if self.algorithm == ED25519:
            return self._private.sign(message)
        r, s = decode_dss_signature(self._private.sign(message, self._ecdsa()))
        return r.to_bytes(32) + min(s, P256_ORDER - s).to_bytes(32)

    @staticmethod
    def _ecdsa():
        return ec.ECDSA(hashes.SHA256())


class DeterministicSigningKey(SigningKey):
    """ES256 by RFC 6979, for test vectors that come out the same every time."""

    @staticmethod
    def _ecdsa():
        return ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


@dataclasses.dataclass(frozen=True)
class PublicKey:
    algorithm: str
    raw: bytes

    def fingerprint(self):
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, kind, payload, signature):
        """Raises Refused unless the signature is this key's, in the one form that it may have."""
        if len(signature) != 64:
            raise Refused("a signature has 64 bytes")
        message = pre_authentication_encoding(kind, payload)
        try:
            if self.algorithm == ED25519:
                ed25519.Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
            else:
                r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
                if s > P256_ORDER // 2:
                    raise Refused("the other form of a signature")
                public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.raw)
                public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError) as error:
            raise Refused("the signature does not verify") from error


def other_form(signature):
    """(r, n - s): verifies wherever (r, s) does, and is refused."""
    return signature[:32] + (P256_ORDER - int.from_bytes(signature[32:])).to_bytes(32)


# ---- the match number's commitment ----


def length_prefixed(*parts):
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def commitment(identifier, salt, number):
    """Of an approval's or enrolment's id, 32 bytes of salt and the number as zero-padded text."""
    parts = length_prefixed(b"countersign-match-number-v1", identifier.encode(), salt, number.encode())
    return hashlib.sha256(parts).digest()


# ---- ids ----

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def id_text(raw):
    """Lower-case Crockford base32, the most significant bits first, the last character filled with zeros."""
    characters = -(-len(raw) * 8 // 5)
    value = int.from_bytes(raw) << (characters * 5 - len(raw) * 8)
    return "".join(CROCKFORD[value >> 5 * at & 31] for at in reversed(range(characters))).lower()


# ---- enrolment codes ----

CHECK = CROCKFORD + "*~$=U"
LOCATOR_LENGTH = 8
SECRET_LENGTH = 10


@dataclasses.dataclass(frozen=True)
class EnrolmentCode:
    locator: str
    secret: str

    @classmethod
    def from_random(cls, random):
        """Of 12 random bytes; the first symbol is made of the lowest five bits, the next of the five above..."""
        bits = int.from_bytes(random)
        symbols = "".join(CROCKFORD[bits >> 5 * at & 31] for at in range(LOCATOR_LENGTH + SECRET_LENGTH))
        return cls(symbols[:LOCATOR_LENGTH], symbols[LOCATOR_LENGTH:])

    @classmethod
    def parse(cls, text):
        """What a person typed: any case, dashes and spaces anywhere, O for 0, I and L for 1."""
        symbols = text.replace("-", "").replace(" ", "")
        if len(symbols) != LOCATOR_LENGTH + SECRET_LENGTH + 1:
            raise Refused("length")
        if not symbols.isascii():
            raise Refused("character")
        symbols = symbols.upper().translate(str.maketrans("OIL", "011"))
        if not all(symbol in CROCKFORD for symbol in symbols[:-1]) or symbols[-1] not in CHECK:
            raise Refused("character")
        code = cls(symbols[:LOCATOR_LENGTH], symbols[LOCATOR_LENGTH:-1])
        if code.check_symbol() != symbols[-1]:
            raise Refused("check")
        return code

    def check_symbol(self):
        value = 0
        for symbol in self.locator + self.secret:
            value = value * 32 + CROCKFORD.index(symbol)
        return CHECK[value % 37]

    def plain(self):
        return self.locator + self.secret + self.check_symbol()

    def text(self):
        return "-".join(re.findall(".{1,4}", self.plain()))

    def mac(self, broker_key, authenticator_key):
        """Proves knowledge of the secret for one new key at one broker."""
        parts = length_prefixed(
            b"countersign-enrolment-secret-v1", self.locator.encode(), broker_key, authenticator_key
        )
        return hmac.digest(self.secret.encode(), parts, "sha256")


@dataclasses.dataclass(frozen=True)
class EnrolmentUri:
    """What a QR code holds."""

    address: str
    code: EnrolmentCode
    broker_fingerprint: str

    START = "countersign://enrol?"

    def text(self):
        parameters = {"v": "1", "a": self.address, "c": self.code.plain(), "k": self.broker_fingerprint}
        return self.START + "&".join(f"{name}={urllib.parse.quote(value, safe='')}" for name, value in parameters.items())

    @classmethod
    def parse(cls, text):
        text = text.strip()
        if not text.startswith(cls.START):
            raise Refused("scheme")
        pairs = [pair.partition("=") for pair in text[len(cls.START) :].split("&") if "=" in pair]

        def parameter(name):
            values = [value for key, _, value in pairs if key == name]
            # Every % begins two hexadecimal digits, which Python's own unquote does not ask for.
            if len(values) != 1 or re.search("%(?![0-9A-Fa-f]{2})", values[0]):
                raise Refused("parameter")
            try:
                return urllib.parse.unquote(values[0], errors="strict")
            except UnicodeDecodeError as error:
                raise Refused("parameter") from error

        if parameter("v") != "1":
            raise Refused("scheme")
        address = parameter("a")
        if not re.match("https?://.", address):
            raise Refused("address")
        fingerprint = parameter("k")
        if not re.fullmatch("[0-9a-f]{64}", fingerprint):
            raise Refused("fingerprint")
        return cls(address, EnrolmentCode.parse(parameter("c")), fingerprint)
