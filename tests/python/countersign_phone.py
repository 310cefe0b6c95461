"""A phone: it enrols by URI or typed code, keeps its key, and shows nothing that it has not checked."""

import dataclasses
import hashlib
import hmac
import os

from countersign.v1 import authenticators_pb2, authenticators_pb2_grpc, envelope_pb2, signed_pb2
from countersign_client import CallRefused, call, channel
from countersign_envelope import (
    ED25519,
    EnrolmentCode,
    EnrolmentUri,
    PublicKey,
    Refused,
    SigningKey,
    commitment,
    payload_type,
)

NONCE_TRAILER = "countersign-nonce-bin"

ALGORITHMS = {
    "ED25519": envelope_pb2.SIGNATURE_ALGORITHM_ED25519,
    "ES256": envelope_pb2.SIGNATURE_ALGORITHM_ES256,
}

APPROVE, DENY, REPORT = (
    signed_pb2.DECISION_APPROVE,
    signed_pb2.DECISION_DENY,
    signed_pb2.DECISION_DENY_AND_REPORT,
)
DELIVERED = authenticators_pb2.AcknowledgeRequest.KIND_DELIVERED
OPENED = authenticators_pb2.AcknowledgeRequest.KIND_OPENED


@dataclasses.dataclass
class Broker:
    """What a phone knows of a broker: its id, and the key that signs everything it sends."""

    broker_id: str
    key: PublicKey

    def open(self, envelope, kind, message):
        """The message in an envelope, if the broker signed it as this kind for this phone's broker."""
        if envelope.payload_type != payload_type(kind):
            raise Refused(f"a {envelope.payload_type} where a {kind} should be")
        if envelope.key_id != self.key.fingerprint():
            raise Refused("signed with another key than the one that this phone learnt")
        self.key.verify(payload_type(kind), envelope.payload, envelope.signature)
        opened = message.FromString(envelope.payload)
        if opened.broker_id != self.broker_id:
            raise Refused("another broker's message")
        return opened


@dataclasses.dataclass
class Question:
    """A checked challenge, of a sign-in or of the trial, with the bytes that the answer is bound to."""

    message: signed_pb2.Challenge | signed_pb2.TrialChallenge
    envelope: envelope_pb2.Envelope

    @property
    def challenge_hash(self):
        return hashlib.sha256(self.envelope.payload).digest()

    def committed_to(self, identifier, salt, number):
        return hmac.compare_digest(self.message.commitment, commitment(identifier, salt, number))


class Phone:
    """One enrolled app. `enrol` or `enrol_by_code` makes it."""

    def __init__(self, api, broker, key, receipt):
        self.api, self.broker, self.key = api, broker, key
        self.authenticator_id = receipt.authenticator_id
        self.enrolment_id = receipt.enrolment_id
        self.account_name, self.realm = receipt.account_name, receipt.realm
        self.counter = receipt.counter
        self.nonce = receipt.nonce
        self.trial = None

    # ---- enrolment ----

    @classmethod
    def enrol(cls, uri, algorithm, push_target, device_name, ca_file=None, platform=signed_pb2.PLATFORM_ANDROID):
        """Scans a QR code: the broker's key must be the one whose fingerprint the code holds."""
        uri = EnrolmentUri.parse(uri)
        api = authenticators_pb2_grpc.AuthenticatorsStub(channel(uri.address, ca_file))
        broker = cls._describe(api)
        if broker.key.fingerprint() != uri.broker_fingerprint:
            raise Refused("this broker does not have the key that the QR code names")
        return cls._claim(api, broker, uri.code, SigningKey.generate(algorithm), push_target, device_name, platform)

    @classmethod
    def enrol_by_code(
        cls, address, code, algorithm, push_target, device_name, ca_file=None, platform=signed_pb2.PLATFORM_ANDROID
    ):
        """A person types address and code: the certificate of the address vouches for the broker's key."""
        code = EnrolmentCode.parse(code)
        api = authenticators_pb2_grpc.AuthenticatorsStub(channel(address, ca_file))
        broker = cls._describe(api)
        return cls._claim(api, broker, code, SigningKey.generate(algorithm), push_target, device_name, platform)

    @staticmethod
    def _describe(api):
        reply = call(api.DescribeBroker, authenticators_pb2.DescribeBrokerRequest())
        if reply.broker_key.algorithm != envelope_pb2.SIGNATURE_ALGORITHM_ED25519 or len(reply.broker_key.key) != 32:
            raise Refused("the broker's key is no Ed25519 key")
        return Broker(reply.broker_id, PublicKey(ED25519, reply.broker_key.key))

    @classmethod
    def _claim(cls, api, broker, code, key, push_target, device_name, platform):
        claim = signed_pb2.EnrolmentClaim(
            broker_id=broker.broker_id,
            locator=code.locator,
            secret_mac=code.mac(broker.key.raw, key.public_key.raw),
            broker_key=broker.key.raw,
            authenticator_key=envelope_pb2.PublicKey(algorithm=ALGORITHMS[key.algorithm], key=key.public_key.raw),
            platform=platform,
            push_target=push_target,
            device_name=device_name,
            nonce=os.urandom(16),
        )
        envelope = sign(key, "enrolment-claim", code.locator, claim)
        reply = call(api.CompleteEnrolment, authenticators_pb2.CompleteEnrolmentRequest(claim=envelope))
        receipt = broker.open(reply.receipt, "enrolment-receipt", signed_pb2.EnrolmentReceipt)
        if receipt.claim_hash != hashlib.sha256(envelope.payload).digest():
            raise Refused("a receipt for another claim")
        if receipt.broker_key.key != broker.key.raw:
            raise Refused("a receipt that names another key than the one that signed it")
        if receipt.counter != 0:
            raise Refused("counters begin at 0")
        phone = cls(api, broker, key, receipt)
        phone.trial = phone.check_trial(reply.trial)
        return phone

    def check_trial(self, envelope):
        trial = self.broker.open(envelope, "trial-challenge", signed_pb2.TrialChallenge)
        mine = self.enrolment_id, self.authenticator_id, self.account_name
        if (trial.enrolment_id, trial.authenticator_id, trial.account_name) != mine:
            raise Refused("somebody else's trial")
        return Question(trial, envelope)

    def answer_trial(self, number):
        """With the number that the enrolling page shows; "" declines."""
        return self.submit(self.signed_trial_answer(number))

    def signed_trial_answer(self, number):
        answer = signed_pb2.TrialAnswer(
            broker_id=self.broker.broker_id,
            enrolment_id=self.enrolment_id,
            challenge_hash=self.trial.challenge_hash,
            authenticator_id=self.authenticator_id,
            number=number,
            nonce=os.urandom(16),
        )
        return self.sign("trial-answer", answer)

    # ---- reads ----

    def list_waiting(self):
        """The checked challenges, oldest first, and the notices."""
        reply = self._read("list-waiting", signed_pb2.ListWaitingCall(), self.api.ListWaiting, authenticators_pb2.ListWaitingRequest)
        if reply.HasField("trial"):
            self.trial = self.check_trial(reply.trial)
        challenges = [self.check(envelope) for envelope in reply.challenges]
        notices = [self.broker.open(envelope, "notice", signed_pb2.Notice) for envelope in reply.notices]
        if any(notice.authenticator_id != self.authenticator_id for notice in notices):
            raise Refused("somebody else's notice")
        return challenges, notices

    def fetch_challenge(self, approval_id):
        """The checked challenge, and how many wait in all."""
        request = signed_pb2.FetchChallengeCall(id=approval_id)
        reply = self._read("fetch-challenge", request, self.api.FetchChallenge, authenticators_pb2.FetchChallengeRequest)
        question = self.check(reply.challenge)
        if question.message.approval_id != approval_id:
            raise Refused("another challenge than the one that was asked for")
        return question, reply.waiting

    def check(self, envelope):
        challenge = self.broker.open(envelope, "challenge", signed_pb2.Challenge)
        if challenge.account_name != self.account_name:
            raise Refused("another account's challenge")
        if len(challenge.commitment) != 32 or not 2 <= challenge.digits <= 6:
            raise Refused("a challenge without a commitment to a number")
        return Question(challenge, envelope)

    def _read(self, kind, message, method, request):
        """Signs the newest nonce; where that is too old, the error hands out the next, once."""
        for last_try in False, True:
            message.broker_id, message.authenticator_id = self.broker.broker_id, self.authenticator_id
            message.nonce = self.nonce
            try:
                reply = call(method, request(call=self.sign(kind, message)))
            except CallRefused as refused:
                self.nonce = refused.trailers.get(NONCE_TRAILER, self.nonce)
                if refused.reason != "NONCE_EXPIRED" or last_try:
                    raise
            else:
                self.nonce = reply.next_nonce
                return reply

    # ---- answers ----

    def approve(self, question, number, user_verified=True):
        return self.submit(self.signed_answer(question, APPROVE, number, user_verified))

    def deny(self, question):
        return self.submit(self.signed_answer(question, DENY))

    def report(self, question):
        return self.submit(self.signed_answer(question, REPORT))

    def answer(self, question, decision, number="", user_verified=False):
        return signed_pb2.Answer(
            broker_id=self.broker.broker_id,
            approval_id=question.message.approval_id,
            challenge_hash=question.challenge_hash,
            authenticator_id=self.authenticator_id,
            decision=decision,
            number=number,
            user_verified=user_verified,
            nonce=os.urandom(16),
        )

    def signed_answer(self, question, decision, number="", user_verified=False):
        return self.sign("answer", self.answer(question, decision, number, user_verified))

    def submit(self, envelope):
        reply = call(self.api.SubmitAnswer, authenticators_pb2.SubmitAnswerRequest(answer=envelope))
        self.nonce = reply.next_nonce or self.nonce
        return reply.outcome

    # ---- everything else ----

    def replace_push_target(self, push_target, counter=None):
        """Every change counts one further, whether or not its reply arrives."""
        self.counter = counter if counter is not None else self.counter + 1
        change = signed_pb2.ReplacePushTargetCall(
            broker_id=self.broker.broker_id,
            authenticator_id=self.authenticator_id,
            counter=self.counter,
            push_target=push_target,
        )
        envelope = self.sign("replace-push-target", change)
        reply = call(self.api.ReplacePushTarget, authenticators_pb2.ReplacePushTargetRequest(call=envelope))
        self.nonce = reply.next_nonce or self.nonce

    def unenrol(self):
        self.counter += 1
        goodbye = signed_pb2.UnenrolCall(
            broker_id=self.broker.broker_id, authenticator_id=self.authenticator_id, counter=self.counter
        )
        call(self.api.Unenrol, authenticators_pb2.UnenrolRequest(call=self.sign("unenrol", goodbye)))

    def acknowledge(self, kind, approval_id, token):
        """Says DELIVERED or OPENED with the token that the push gave."""
        request = authenticators_pb2.AcknowledgeRequest(
            kind=kind, approval_id=approval_id, authenticator_id=self.authenticator_id, token=token
        )
        reply = call(self.api.Acknowledge, request)
        self.nonce = reply.next_nonce or self.nonce

    def sign(self, kind, message):
        return sign(self.key, kind, self.authenticator_id, message)


def sign(key, kind, key_id, message):
    payload = message.SerializeToString()
    return envelope_pb2.Envelope(
        payload=payload,
        payload_type=payload_type(kind),
        key_id=key_id,
        signature=key.sign(payload_type(kind), payload),
    )


def fcm(registration_token):
    return signed_pb2.PushTarget(fcm_registration_token=registration_token)


def apns(device_token):
    return signed_pb2.PushTarget(apns_device_token=device_token)
