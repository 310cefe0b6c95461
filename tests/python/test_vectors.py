"""Checks proto/envelope/vectors with Python's own crypto and protobuf: what Rust makes, others read, and the reverse."""

import json
import pathlib
import unittest

import countersign.v1.signed_pb2 as signed_pb2
from countersign_envelope import (
    ES256,
    EnrolmentCode,
    EnrolmentUri,
    PublicKey,
    Refused,
    SigningKey,
    commitment,
    id_text,
    other_form,
    pre_authentication_encoding,
)
from google.protobuf import json_format

VECTORS = pathlib.Path(__file__).resolve().parent.parent.parent / "proto" / "envelope" / "vectors"


def vectors(file, kind):
    found = json.loads((VECTORS / file).read_text())[kind]
    assert found, f"no {kind} in {file}"
    return found


def keys():
    made = {}
    for vector in vectors("keys.json", "keys"):
        if "seed" in vector:
            made[vector["name"]] = SigningKey.from_seed(bytes.fromhex(vector["seed"]))
        else:
            made[vector["name"]] = SigningKey.from_pkcs8(bytes.fromhex(vector["pkcs8"]))
    return made


def verifies(public_key, kind, payload, signature):
    try:
        public_key.verify(kind, payload, signature)
    except Refused:
        return False
    return True


class Keys(unittest.TestCase):
    def test_private_keys_have_their_public_halves(self):
        for vector in vectors("keys.json", "keys"):
            public = keys()[vector["name"]].public_key
            expected = vector["algorithm"], vector["public_key"], vector["fingerprint"]
            self.assertEqual((public.algorithm, public.raw.hex(), public.fingerprint()), expected)

    def test_unusable_points_verify_nothing(self):
        # Those of small order are for whoever takes keys from strangers, as the broker does.
        for vector in vectors("keys.json", "unusable"):
            if vector["algorithm"] == ES256:
                public = PublicKey(ES256, bytes.fromhex(vector["public_key"]))
                # Python reads compressed points, too: no signature of anybody's verifies with one here.
                self.assertFalse(verifies(public, "t", b"p", bytes(64)), vector["what"])


class Signatures(unittest.TestCase):
    def test_pre_authentication_encoding(self):
        for vector in vectors("signatures.json", "pae"):
            made = pre_authentication_encoding(vector["payload_type"], bytes.fromhex(vector["payload"]))
            self.assertEqual(made.hex(), vector["pae"])

    def test_good_ones_verify_and_no_others(self):
        for vector in vectors("signatures.json", "signatures"):
            payload, signature = bytes.fromhex(vector["payload"]), bytes.fromhex(vector["signature"])
            verified = verifies(keys()[vector["key"]].public_key, vector["payload_type"], payload, signature)
            # Python's Ed25519 is not strict; a phone that checks the broker's signatures need not be.
            expected = vector["valid"] or vector.get("taken_by_lenient_verifiers", False)
            with self.subTest(vector["what"], key=vector["key"]):
                self.assertEqual(verified, expected)

    def test_own_signatures_are_the_same_or_have_a_low_s(self):
        for vector in vectors("signatures.json", "signatures"):
            if vector["valid"]:
                key, payload = keys()[vector["key"]], bytes.fromhex(vector["payload"])
                signature = key.sign(vector["payload_type"], payload)
                key.public_key.verify(vector["payload_type"], payload, signature)
                if key.algorithm == ES256:
                    with self.assertRaises(Refused):
                        key.public_key.verify(vector["payload_type"], payload, other_form(signature))
                else:
                    self.assertEqual(signature.hex(), vector["signature"])


class Messages(unittest.TestCase):
    def test_payloads_decode_to_their_fields_and_encode_to_the_same_bytes(self):
        for vector in vectors("messages.json", "messages"):
            with self.subTest(vector["what"]):
                kind = getattr(signed_pb2, vector["message"].rpartition(".")[2])
                payload = bytes.fromhex(vector["payload"])
                decoded = json_format.MessageToDict(kind.FromString(payload), preserving_proto_field_name=True)
                self.assertEqual(decoded, vector["fields"])
                encoded = json_format.ParseDict(vector["fields"], kind()).SerializeToString(deterministic=True)
                self.assertEqual(encoded, payload)

    def test_signatures_are_over_the_payload_as_it_is(self):
        for vector in vectors("messages.json", "messages"):
            payload, signature = bytes.fromhex(vector["payload"]), bytes.fromhex(vector["signature"])
            keys()[vector["key"]].public_key.verify(vector["payload_type"], payload, signature)

    def test_the_challenge_commits_to_the_number_that_the_answer_holds(self):
        messages = {vector["what"]: bytes.fromhex(vector["payload"]) for vector in vectors("messages.json", "messages")}
        challenge = signed_pb2.Challenge.FromString(messages["a challenge"])
        answer = signed_pb2.Answer.FromString(messages["the right number"])
        opened = [
            vector
            for vector in vectors("commitments.json", "commitments")
            if (vector["id"], vector["number"]) == (challenge.approval_id, answer.number)
        ]
        self.assertIn(challenge.commitment.hex(), [vector["commitment"] for vector in opened])


class Commitments(unittest.TestCase):
    def test_commitments(self):
        for vector in vectors("commitments.json", "commitments"):
            made = commitment(vector["id"], bytes.fromhex(vector["salt"]), vector["number"])
            self.assertEqual(made.hex(), vector["commitment"])


class Ids(unittest.TestCase):
    def test_texts(self):
        for vector in vectors("ids.json", "ids"):
            self.assertEqual(id_text(bytes.fromhex(vector["bytes"])), vector["text"])


class EnrolmentCodes(unittest.TestCase):
    def test_made_shown_and_proven(self):
        for vector in vectors("enrolment_codes.json", "codes"):
            code = EnrolmentCode.from_random(bytes.fromhex(vector["random"]))
            self.assertEqual((code.text(), code.locator, code.secret), (vector["text"], vector["locator"], vector["secret"]))
            self.assertEqual(EnrolmentCode.parse(vector["text"]), code)
            mac = vector["mac"]
            made = code.mac(bytes.fromhex(mac["broker_key"]), bytes.fromhex(mac["authenticator_key"]))
            self.assertEqual(made.hex(), mac["mac"])

    def test_read_as_people_type_them(self):
        for vector in vectors("enrolment_codes.json", "typed"):
            self.assertEqual(EnrolmentCode.parse(vector["typed"]).text(), vector["reads_as"])

    def test_refused_for_what_is_wrong(self):
        for vector in vectors("enrolment_codes.json", "invalid"):
            with self.subTest(vector["text"]), self.assertRaises(Refused) as refused:
                EnrolmentCode.parse(vector["text"])
            self.assertEqual(str(refused.exception), vector["error"], vector["text"])


class EnrolmentUris(unittest.TestCase):
    def test_written_and_read(self):
        for vector in vectors("enrolment_uris.json", "uris"):
            uri = EnrolmentUri(vector["address"], EnrolmentCode.parse(vector["code"]), vector["fingerprint"])
            self.assertEqual(uri.text(), vector["uri"])
            self.assertEqual(EnrolmentUri.parse(vector["uri"]), uri)

    def test_refused_for_what_is_wrong(self):
        for vector in vectors("enrolment_uris.json", "invalid"):
            with self.subTest(vector["uri"]), self.assertRaises(Refused) as refused:
                EnrolmentUri.parse(vector["uri"])
            self.assertEqual(str(refused.exception), vector["error"], vector["uri"])
