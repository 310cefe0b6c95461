"""What proto/envelope/vectors/*.json hold, made anew, the same every time. As a test it compares:

    tests/python/run make_vectors
    MAKE_VECTORS=write tests/python/run make_vectors      writes what differs

Python's own crypto makes them and the Rust crates are held to them, so that neither can be wrong by itself. A vector
never changes: what was signed with a version that is out must be checked by every later one.
"""

import datetime
import hashlib
import json
import os
import pathlib
import unittest

from countersign_envelope import (
    CHECK,
    P256_ORDER,
    DeterministicSigningKey,
    EnrolmentCode,
    EnrolmentUri,
    SigningKey,
    commitment,
    id_text,
    other_form,
    payload_type,
    pre_authentication_encoding,
)
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from countersign.v1 import envelope_pb2, signed_pb2
from google.protobuf import json_format, timestamp_pb2

VECTORS = pathlib.Path(__file__).resolve().parent.parent.parent / "proto" / "envelope" / "vectors"


def es256(scalar):
    """The PKCS#8 form (RFC 5208) of a private key."""
    private = ec.derive_private_key(scalar, ec.SECP256R1())
    return private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


SEEDS = {
    # RFC 8032 section 7.1, TEST 1: what any Ed25519 implementation has been tried with.
    "rfc8032-test-1": bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
    "broker": bytes(range(32)),
    "phone-ed25519": bytes(range(32, 64)),
}
PKCS8 = {
    # RFC 6979 appendix A.2.5.
    "rfc6979-a25": es256(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721),
    "phone-es256": es256(int.from_bytes(bytes(range(64, 96)))),
}


def keys():
    made = {name: SigningKey.from_seed(seed) for name, seed in SEEDS.items()}
    return made | {name: DeterministicSigningKey.from_pkcs8(pkcs8) for name, pkcs8 in PKCS8.items()}


def key_vectors():
    for name, key in keys().items():
        private = {"seed": SEEDS[name].hex()} if name in SEEDS else {"pkcs8": PKCS8[name].hex()}
        public = key.public_key
        yield {"name": name, "algorithm": key.algorithm} | private | {
            "public_key": public.raw.hex(),
            "fingerprint": public.fingerprint(),
        }


def unusable_key_vectors():
    point = keys()["phone-es256"].public_key.raw
    neutral = bytes([1]) + bytes(31)
    yield {"what": "the neutral element, of order 1", "algorithm": "ED25519", "public_key": neutral.hex()}
    yield {"what": "y = 0, of order 4", "algorithm": "ED25519", "public_key": bytes(32).hex()}
    yield {"what": "no point of the curve", "algorithm": "ED25519", "public_key": (bytes([2]) + bytes(31)).hex()}
    yield {"what": "31 bytes", "algorithm": "ED25519", "public_key": bytes(31).hex()}
    yield {"what": "off the curve", "algorithm": "ES256", "public_key": (point[:-1] + bytes([point[-1] ^ 1])).hex()}
    compressed = bytes([2 + point[-1] % 2]) + point[1:33]
    yield {"what": "compressed", "algorithm": "ES256", "public_key": compressed.hex()}
    yield {"what": "the hybrid form", "algorithm": "ES256", "public_key": (bytes([6 + point[-1] % 2]) + point[1:]).hex()}
    yield {"what": "the point at infinity", "algorithm": "ES256", "public_key": bytes(65).hex()}


# ---- messages ----

ACCOUNT = bytes([0xAC]) * 16
APPROVAL = id_text(ACCOUNT + bytes(range(16)))
AUTHENTICATOR = id_text(ACCOUNT + bytes(range(8)))
ENROLMENT = id_text(ACCOUNT + bytes(range(8, 16)))
SALT = bytes(range(100, 132))
BROKER_ID = "approve.example.org"


def moment(second):
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(datetime.datetime(2027, 1, 15, 8, 0, tzinfo=datetime.UTC) + datetime.timedelta(seconds=second))
    return made


def messages():
    """One of each kind, as name of the message and of its payload type, key, and message."""
    broker, phone = keys()["broker"], keys()["phone-ed25519"]
    code = EnrolmentCode.from_random(b"some entropy")
    challenge = signed_pb2.Challenge(
        broker_id=BROKER_ID,
        approval_id=APPROVAL,
        account_name="Åsa Lindqvist",
        relying_party_name="Shop and Sons",
        application_name="Web shop",
        context=signed_pb2.Context(source_ip="192.0.2.7", place="Gothenburg, Sweden", browser="Firefox on Linux"),
        session_binding=b"session of sign-in 1",
        commitment=commitment(APPROVAL, SALT, "07"),
        digits=2,
        issued_at=moment(0),
        expires_at=moment(60),
    )
    trial = signed_pb2.TrialChallenge(
        broker_id=BROKER_ID,
        enrolment_id=ENROLMENT,
        authenticator_id=AUTHENTICATOR,
        account_name="Åsa Lindqvist",
        commitment=commitment(ENROLMENT, SALT, "42"),
        digits=2,
        issued_at=moment(0),
        expires_at=moment(599.5),
    )
    claim = signed_pb2.EnrolmentClaim(
        broker_id=BROKER_ID,
        locator=code.locator,
        secret_mac=code.mac(broker.public_key.raw, phone.public_key.raw),
        broker_key=broker.public_key.raw,
        authenticator_key=envelope_pb2.PublicKey(
            algorithm=envelope_pb2.SIGNATURE_ALGORITHM_ED25519, key=phone.public_key.raw
        ),
        platform=signed_pb2.PLATFORM_ANDROID,
        push_target=signed_pb2.PushTarget(fcm_registration_token="registration:token-1"),
        device_name="Åsa's phone",
        nonce=bytes(range(16)),
    )
    receipt = signed_pb2.EnrolmentReceipt(
        broker_id=BROKER_ID,
        broker_key=envelope_pb2.PublicKey(
            algorithm=envelope_pb2.SIGNATURE_ALGORITHM_ED25519, key=broker.public_key.raw
        ),
        authenticator_id=AUTHENTICATOR,
        account_name="Åsa Lindqvist",
        realm="staff",
        claim_hash=sha256(claim),
        counter=0,
        nonce=bytes(range(24)),
        enrolment_id=ENROLMENT,
    )

    def answer(decision, number="", user_verified=False):
        return signed_pb2.Answer(
            broker_id=BROKER_ID,
            approval_id=APPROVAL,
            challenge_hash=sha256(challenge),
            authenticator_id=AUTHENTICATOR,
            decision=decision,
            number=number,
            user_verified=user_verified,
            nonce=bytes(range(16, 32)),
        )

    of_phone = {"broker_id": BROKER_ID, "authenticator_id": AUTHENTICATOR}
    trial_answer = signed_pb2.TrialAnswer(
        **of_phone, enrolment_id=ENROLMENT, challenge_hash=sha256(trial), number="42", nonce=bytes(range(16, 32))
    )
    yield "a challenge", "challenge", "broker", challenge
    yield "a trial's challenge", "trial-challenge", "broker", trial
    yield "an enrolment claim", "enrolment-claim", "phone-ed25519", claim
    yield "an enrolment receipt", "enrolment-receipt", "broker", receipt
    yield "the right number", "answer", "phone-ed25519", answer(signed_pb2.DECISION_APPROVE, "07")
    yield "the right number, the person checked", "answer", "phone-es256", answer(signed_pb2.DECISION_APPROVE, "07", True)
    yield "no", "answer", "phone-es256", answer(signed_pb2.DECISION_DENY)
    yield "no, and it was not me", "answer", "phone-ed25519", answer(signed_pb2.DECISION_DENY_AND_REPORT)
    yield "the trial's number", "trial-answer", "phone-ed25519", trial_answer
    yield "what waits?", "list-waiting", "phone-es256", signed_pb2.ListWaitingCall(**of_phone, nonce=bytes(range(24)))
    yield "that challenge, please", "fetch-challenge", "phone-ed25519", signed_pb2.FetchChallengeCall(
        **of_phone, nonce=bytes(range(24)), id=APPROVAL
    )
    yield "a new push target", "replace-push-target", "phone-ed25519", signed_pb2.ReplacePushTargetCall(
        **of_phone, counter=1, push_target=signed_pb2.PushTarget(apns_device_token="0123456789abcdef" * 4)
    )
    yield "goodbye", "unenrol", "phone-es256", signed_pb2.UnenrolCall(**of_phone, counter=2)
    yield "somebody was added", "notice", "broker", signed_pb2.Notice(
        **of_phone,
        account_name="Åsa Lindqvist",
        kind=signed_pb2.Notice.KIND_AUTHENTICATOR_ADDED,
        subject_authenticator_id=id_text(ACCOUNT + bytes(range(1, 9))),
        subject_device_name="Åsa's tablet",
        at=moment(3600),
    )


def sha256(message):
    return hashlib.sha256(message.SerializeToString()).digest()


def message_vectors():
    for what, kind, signer, message in messages():
        payload = message.SerializeToString()
        yield {
            "what": what,
            "message": message.DESCRIPTOR.full_name,
            "payload_type": payload_type(kind),
            "fields": json_format.MessageToDict(message, preserving_proto_field_name=True),
            "payload": payload.hex(),
            "payload_sha256": sha256(message).hex(),
            "key": signer,
            "signature": keys()[signer].sign(payload_type(kind), payload).hex(),
        }


# ---- signatures ----


def pae_vectors():
    # The first is DSSE's own example.
    for kind, payload in [
        ("http://example.com/HelloWorld", b"hello world"),
        ("", b""),
        (payload_type("answer"), b""),
        ("t", b"5 hello"),
        ("ärende", bytes(range(256))),
    ]:
        yield {
            "payload_type": kind,
            "payload": payload.hex(),
            "pae": pre_authentication_encoding(kind, payload).hex(),
        }


def signature_vectors():
    """Good ones, and for each of them everything that makes it bad."""
    answers = {what: (kind, message) for what, kind, _, message in messages()}
    kind, message = answers["the right number"]
    kind, payload = payload_type(kind), message.SerializeToString()
    # The same answer with another number.
    message.number = "08"
    changed = message.SerializeToString()

    def vector(what, key, valid, kind, payload, signature):
        return {
            "what": what,
            "key": key,
            "payload_type": kind,
            "payload": payload.hex(),
            "signature": signature.hex(),
            "valid": valid,
        }

    for name, key in keys().items():
        good = key.sign(kind, payload)
        yield vector("good", name, True, kind, payload, good)
        yield vector("good, of nothing", name, True, "", b"", key.sign("", b""))
        yield vector("another payload type", name, False, payload_type("trial-answer"), payload, good)
        yield vector("the number changed inside", name, False, kind, changed, good)
        yield vector("a byte more", name, False, kind, payload + b"\0", good)
        yield vector("another key's signature", name, False, kind, payload, another(name).sign(kind, payload))
        flipped = bytes([good[0] ^ 1]) + good[1:]
        yield vector("a bit of r", name, False, kind, payload, flipped)
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        yield vector("a bit of s", name, False, kind, payload, flipped)
        yield vector("zeros", name, False, kind, payload, bytes(64))
        yield vector("a byte short", name, False, kind, payload, good[:-1])
        yield vector("a byte too many", name, False, kind, payload, good + b"\0")
        raw = bytes_signed_without_pae(key, payload)
        yield vector("over the payload alone, without PAE", name, False, kind, payload, raw)
        if key.algorithm == "ES256":
            yield vector("the same with s in the upper half", name, False, kind, payload, other_form(good))
            der = key._private.sign(pre_authentication_encoding(kind, payload), key._ecdsa())
            yield vector("DER", name, False, kind, payload, der)
            more = int.from_bytes(good[32:]) + P256_ORDER
            if more < 1 << 256:
                yield vector("s + n", name, False, kind, payload, good[:32] + more.to_bytes(32))
        else:
            more = int.from_bytes(good[32:], "little") + ED25519_ORDER
            yield vector("S + L (RFC 8032 section 8.4)", name, False, kind, payload, good[:32] + more.to_bytes(32, "little"))
            lenient = with_neutral_r(SEEDS[name], key.public_key.raw, pre_authentication_encoding(kind, payload))
            what = "R of small order"
            yield vector(what, name, False, kind, payload, lenient) | {"taken_by_lenient_verifiers": True}


ED25519_ORDER = (1 << 252) + 27742317777372353535851937790883648493


def with_neutral_r(seed, public, message):
    """What only the key's holder can make: R is the neutral element. Verifiers that are not strict take it."""
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    scalar = scalar & ~7 & ~(1 << 255) | 1 << 254
    r = bytes([1]) + bytes(31)
    k = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little")
    return r + (k * scalar % ED25519_ORDER).to_bytes(32, "little")


def another(name):
    return next(key for other, key in keys().items() if other != name and key.algorithm == keys()[name].algorithm)


def bytes_signed_without_pae(key, payload):
    if key.algorithm == "ED25519":
        return key._private.sign(payload)
    r, s = decode_dss_signature(key._private.sign(payload, key._ecdsa()))
    return r.to_bytes(32) + min(s, P256_ORDER - s).to_bytes(32)


# ---- the rest ----


def commitment_vectors():
    for identifier, salt, number in [
        (APPROVAL, SALT, "07"),
        (APPROVAL, SALT, "7"),
        (APPROVAL, SALT, "70"),
        (APPROVAL, bytes(32), "07"),
        (ENROLMENT, SALT, "07"),
        (APPROVAL, SALT, "000007"),
        # Parts cannot pass for the ends of their neighbours.
        (APPROVAL[:-1], SALT, APPROVAL[-1] + "07"),
        ("", bytes(32), ""),
    ]:
        yield {"id": identifier, "salt": salt.hex(), "number": number, "commitment": commitment(identifier, salt, number).hex()}


def code_vectors():
    broker, phone = keys()["broker"].public_key, keys()["phone-es256"].public_key
    for random in [bytes(12), b"\xff" * 12, b"some entropy", bytes(range(12)), *codes_for_every_check_symbol()]:
        code = EnrolmentCode.from_random(random)
        yield {
            "random": random.hex(),
            "text": code.text(),
            "locator": code.locator,
            "secret": code.secret,
            "mac": {
                "broker_key": broker.raw.hex(),
                "authenticator_key": phone.raw.hex(),
                "mac": code.mac(broker.raw, phone.raw).hex(),
            },
        }


def codes_for_every_check_symbol():
    wanted = set(CHECK)
    for number in range(10_000):
        # Spread over all 96 bits.
        random = (number * 0x9E3779B97F4A7C15F39CC061).to_bytes(20)[-12:]
        symbol = EnrolmentCode.from_random(random).check_symbol()
        if symbol in wanted:
            wanted.remove(symbol)
            yield random
    assert not wanted


def typed_code_vectors():
    shown = EnrolmentCode.from_random(bytes(range(12))).text()
    yield {"typed": shown, "reads_as": shown}
    yield {"typed": shown.replace("-", ""), "reads_as": shown}
    yield {"typed": shown.lower(), "reads_as": shown}
    yield {"typed": f"  {shown.replace('-', '  ')} -", "reads_as": shown}
    yield {"typed": shown.replace("0", "O").replace("1", "l"), "reads_as": shown}
    yield {"typed": shown.replace("0", "o").replace("1", "I"), "reads_as": shown}
    # A check symbol U is not a V, and a code that ends so is read in either case.
    with_u = next(code for code in map(EnrolmentCode.from_random, codes_for_every_check_symbol()) if code.check_symbol() == "U")
    yield {"typed": with_u.text().lower(), "reads_as": with_u.text()}


def invalid_code_vectors():
    plain = EnrolmentCode.from_random(b"some entropy").plain()
    yield {"text": "", "error": "length"}
    yield {"text": plain[:-1], "error": "length"}
    yield {"text": plain + "0", "error": "length"}
    yield {"text": "-" * 19, "error": "length"}
    yield {"text": "U" + plain[1:], "error": "character"}
    yield {"text": "!" + plain[1:], "error": "character"}
    yield {"text": "*" + plain[1:], "error": "character"}
    yield {"text": "é" + plain[1:], "error": "character"}
    # Its upper case is two letters: it is refused for what it is.
    yield {"text": "ß" + plain[1:], "error": "character"}
    # A long s, whose upper case is an S.
    yield {"text": "ſ" + plain[1:], "error": "character"}
    # Digits of other scripts are none.
    yield {"text": "٣" + plain[1:], "error": "character"}
    yield {"text": plain[:-1] + "!", "error": "character"}
    yield {"text": "\t" + plain[1:], "error": "character"}
    wrong = CHECK[(CHECK.index(plain[-1]) + 1) % 37]
    yield {"text": plain[:-1] + wrong, "error": "check"}
    at = next(at for at in range(17) if plain[at] != plain[at + 1])
    yield {"text": plain[:at] + plain[at + 1] + plain[at] + plain[at + 2 :], "error": "check"}
    yield {"text": plain[:4] + ("0" if plain[4] != "0" else "1") + plain[5:], "error": "check"}


def uri_vectors():
    fingerprint = keys()["broker"].public_key.fingerprint()
    star = next(code for code in map(EnrolmentCode.from_random, codes_for_every_check_symbol()) if code.check_symbol() == "*")
    for address, code in [
        ("https://approve.example.org", EnrolmentCode.from_random(b"some entropy")),
        ("https://approve.example.org:8443", star),
        ("http://127.0.0.1:50051", EnrolmentCode.from_random(bytes(12))),
        ("https://[2001:db8::7]:8443", EnrolmentCode.from_random(bytes(range(12)))),
    ]:
        uri = EnrolmentUri(address, code, fingerprint)
        yield {"uri": uri.text(), "address": address, "code": code.text(), "fingerprint": fingerprint}


def invalid_uri_vectors():
    good = next(uri_vectors())["uri"]
    fingerprint = good.partition("&k=")[2]
    yield {"uri": "", "error": "scheme"}
    yield {"uri": good.replace("countersign://", "https://"), "error": "scheme"}
    yield {"uri": good.replace("v=1", "v=2"), "error": "scheme"}
    yield {"uri": good.replace("v=1&", ""), "error": "parameter"}
    yield {"uri": good + "&v=1", "error": "parameter"}
    yield {"uri": good + f"&k={fingerprint}", "error": "parameter"}
    yield {"uri": good.replace("&c=", "&C="), "error": "parameter"}
    yield {"uri": good.replace("a=https%3A", "a=https%3"), "error": "parameter"}
    yield {"uri": good.replace("a=https%3A", "a=https%G0"), "error": "parameter"}
    yield {"uri": good.replace("approve", "%ff"), "error": "parameter"}
    yield {"uri": good.replace("a=https", "a=ftp"), "error": "address"}
    yield {"uri": good.replace("a=https%3A%2F%2Fapprove.example.org", "a=https%3A%2F%2F"), "error": "address"}
    yield {"uri": good.replace(fingerprint, fingerprint.upper()), "error": "fingerprint"}
    yield {"uri": good[:-1], "error": "fingerprint"}
    yield {"uri": good + "#top", "error": "fingerprint"}
    yield {"uri": good.replace("c=", "c=A"), "error": "length"}


def id_vectors():
    owner = bytes(range(16))
    for kind, raw in [
        ("account", owner),
        ("account", bytes(16)),
        ("account", b"\xff" * 16),
        ("approval", owner + bytes(range(16, 32))),
        ("approval", b"\xff" * 32),
        ("authenticator", owner + bytes(range(16, 24))),
        ("enrolment", owner + bytes(range(24, 32))),
        ("relying_party", owner),
        ("credential", owner + bytes(range(16, 24))),
    ]:
        yield {"kind": kind, "bytes": raw.hex(), "text": id_text(raw)}


FILES = {
    "keys.json": {"keys": key_vectors, "unusable": unusable_key_vectors},
    "signatures.json": {"pae": pae_vectors, "signatures": signature_vectors},
    "messages.json": {"messages": message_vectors},
    "commitments.json": {"commitments": commitment_vectors},
    "enrolment_codes.json": {"codes": code_vectors, "typed": typed_code_vectors, "invalid": invalid_code_vectors},
    "enrolment_uris.json": {"uris": uri_vectors, "invalid": invalid_uri_vectors},
    "ids.json": {"ids": id_vectors},
}


class MakeVectors(unittest.TestCase):
    def test_the_files_are_as_this_program_makes_them(self):
        differing = []
        for name, parts in FILES.items():
            made = json.dumps({part: list(make()) for part, make in parts.items()}, indent=1, ensure_ascii=False) + "\n"
            file = VECTORS / name
            if os.environ.get("MAKE_VECTORS") == "write":
                file.write_text(made)
            if not file.exists() or file.read_text() != made:
                differing.append(name)
        self.assertEqual(differing, [])
