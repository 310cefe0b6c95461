"""The Python login server and phone against a running broker.

A harness starts the broker and says where it is:

    COUNTERSIGN_TEST_ADDRESS                 its public URL, such as https://127.0.0.1:8443
    COUNTERSIGN_TEST_CA_FILE                 the certificate authority to trust (PEM); may be absent
    COUNTERSIGN_TEST_SIGN_IN_KEY             an API key of the scope SIGN_IN
    COUNTERSIGN_TEST_ENROLMENT_KEY           an API key of the scope ENROLMENT, of the same realm
    COUNTERSIGN_TEST_APPLICATION             an application that the relying party is registered with
    COUNTERSIGN_TEST_FCM_REGISTRATION_TOKEN  a good target of the FCM that the broker pushes to
    COUNTERSIGN_TEST_APNS_DEVICE_TOKEN       a good target of its APNs

Without them the tests fail: a test that was not run is none that passed.
"""

import datetime
import os
import unittest
import uuid

import countersign_login
import countersign_phone
from countersign.v1 import approvals_pb2, enrolments_pb2, signed_pb2
from countersign_client import CallRefused, channel
from countersign_envelope import ED25519, ES256, EnrolmentCode, EnrolmentUri, PublicKey, Refused, SigningKey, other_form
from countersign_login import EnrollingPage, LoginServer, lets_in
from countersign_phone import APPROVE, DENY, Phone, apns, fcm


def setting(name, required=True):
    value = os.environ.get(f"COUNTERSIGN_TEST_{name}")
    if required and not value:
        raise AssertionError(f"COUNTERSIGN_TEST_{name} is not set: start these tests by their harness, which runs a broker")
    return value


def setUpModule():
    global ADDRESS, CA_FILE, APPLICATION, login, page
    ADDRESS, CA_FILE, APPLICATION = setting("ADDRESS"), setting("CA_FILE", required=False), setting("APPLICATION")
    server = channel(ADDRESS, CA_FILE)
    login = LoginServer(server, setting("SIGN_IN_KEY"), APPLICATION)
    page = EnrollingPage(server, setting("ENROLMENT_KEY"))


class BrokerTest(unittest.TestCase):
    def refused(self, reason, code=None):
        """A block in which the broker refuses a call for this reason."""
        return Refusal(self, reason, code)

    def assertDigits(self, number):
        self.assertRegex(number, "^[0-9]{2,6}$")


class Refusal:
    def __init__(self, test, reason, code):
        self.test, self.reason, self.code = test, reason, code

    def __enter__(self):
        self.raises = self.test.assertRaises(CallRefused)
        self.raises.__enter__()
        return self

    def __exit__(self, *error):
        caught = self.raises.__exit__(*error)
        if caught:
            self.refusal = self.raises.exception
            self.test.assertEqual(self.refusal.reason, self.reason, self.refusal)
            if self.code:
                self.test.assertEqual(self.refusal.code.name, self.code)
        return caught


class WithPhone:
    """The tests of a phone; a class for each algorithm and push service runs them all."""

    algorithm = push_target = None

    # ---- the story ----

    def test_enrol_by_qr_code_pass_the_trial_and_approve(self):
        account, session = new_account(), "session"
        begun = page.begin(account)
        self.assertEqual(EnrolmentUri.parse(begun.uri).code, EnrolmentCode.parse(begun.code))
        with closing(page.watch(begun.enrolment_id)) as steps:
            self.assertTrue(next(steps).HasField("begun"))
            phone = Phone.enrol(begun.uri, self.algorithm, self.target(), "Åsa's phone", CA_FILE)
            self.assertEqual(phone.account_name, account)
            trial = next(steps)
            self.assertEqual(trial.trial.authenticator_id, phone.authenticator_id)
            self.assertEqual(trial.trial.device_name, "Åsa's phone")
            self.assertDigits(trial.trial.match_number)
            self.assertEqual(phone.answer_trial(trial.trial.match_number), approvals_pb2.OUTCOME_KIND_APPROVED)
            self.assertEqual(next(steps).active.authenticator_id, phone.authenticator_id)
            self.assertEqual(list(steps), [])

        with closing(login.request(account, session)) as updates:
            first = next(updates)
            issued = first.issued
            self.assertEqual((first.sequence, issued.authenticators_addressed), (1, 1))
            self.assertDigits(issued.match_number)

            (question,), _ = phone.list_waiting()
            challenge = question.message
            self.assertEqual(challenge.approval_id, issued.approval_id)
            self.assertEqual(challenge.application_name, APPLICATION)
            self.assertEqual(challenge.session_binding, countersign_login.session_binding(session))
            self.assertEqual(challenge.context.source_ip, "192.0.2.7")
            self.assertEqual(challenge.digits, len(issued.match_number))
            self.assertEqual(challenge.expires_at, issued.expires_at)

            self.assertEqual(phone.approve(question, issued.match_number), approvals_pb2.OUTCOME_KIND_APPROVED)
            *progress, last = updates
        self.assertTrue(all(update.HasField("progress") for update in progress))
        self.assertEqual([update.sequence for update in [*progress, last]], list(range(2, len(progress) + 3)))
        outcome = last.outcome
        self.assertTrue(lets_in(outcome, session))
        self.assertFalse(lets_in(outcome, "another session"))
        self.assertFalse(lets_in(outcome, session, datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=61)))
        self.assertEqual(outcome.approval_id, issued.approval_id)
        self.assertEqual(outcome.authenticator_id, phone.authenticator_id)
        self.assertLessEqual({"mca", "pop", "user"}, set(outcome.amr))
        self.assertTrue(outcome.user_verified)
        self.assertFalse(outcome.phishing_resistant)
        self.assertEqual(outcome.valid_until.ToMilliseconds() - outcome.decided_at.ToMilliseconds(), 60_000)

        # The outcome is the same on every call, from whatever point.
        for after in 0, 1, last.sequence - 1:
            self.assertEqual(list(login.watch(issued.approval_id, after))[-1], last)
        self.assertEqual(login.get(issued.approval_id).outcome, outcome)
        self.assertEqual(login.wait(issued.approval_id).outcome, outcome)
        self.assertEqual(login.cancel(issued.approval_id), outcome)

    def test_enrol_by_typed_code(self):
        begun = page.begin(new_account())
        typed = begun.code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
        phone = Phone.enrol_by_code(begun.address, typed, self.algorithm, self.target(), "Åsa's phone", CA_FILE)
        phone.answer_trial(trial_number(begun.enrolment_id))
        self.assertEqual(only(page.authenticators(phone.account_name)).state, enrolments_pb2.Authenticator.STATE_ACTIVE)

    def test_unary_calls_do_what_the_stream_does(self):
        phone = self.enrolled()
        issued = login.open(phone.account_name, "session").issued
        self.assertFalse(login.wait(issued.approval_id, max_wait_s=0).HasField("outcome"))
        question, waiting = phone.fetch_challenge(issued.approval_id)
        self.assertEqual(waiting, 1)
        phone.approve(question, issued.match_number, user_verified=False)
        approval = login.wait(issued.approval_id)
        self.assertTrue(lets_in(approval.outcome, "session"))
        self.assertFalse(approval.outcome.user_verified)
        self.assertNotIn("mfa", approval.outcome.amr)
        self.assertEqual(approval.issued, issued)
        self.assertEqual([update.sequence for update in approval.updates], list(range(1, len(approval.updates) + 1)))

    def test_the_login_page_sees_that_the_push_service_took_the_push(self):
        phone = self.enrolled()
        with closing(login.request(phone.account_name, "session")) as updates:
            issued = next(updates).issued
            progress = next(updates).progress
            self.assertEqual(progress.kind, approvals_pb2.Progress.KIND_ACCEPTED_BY_PUSH_SERVICE)
            self.assertEqual(progress.authenticator_id, phone.authenticator_id)
        login.cancel(issued.approval_id)

    # ---- every other outcome ----

    def test_deny_and_report(self):
        phone = self.enrolled()
        for answer, kind in (phone.deny, "DENIED"), (phone.report, "REPORTED"):
            question, issued = self.asked(phone)
            self.assertEqual(answer(question), approvals_pb2.OutcomeKind.Value(f"OUTCOME_KIND_{kind}"))
            outcome = login.get(issued.approval_id).outcome
            self.assertEqual(outcome.kind, approvals_pb2.OutcomeKind.Value(f"OUTCOME_KIND_{kind}"))
            self.assertEqual(outcome.authenticator_id, phone.authenticator_id)
            self.assertFalse(lets_in(outcome, "session"))

    def test_a_wrong_number_ends_the_approval(self):
        phone = self.enrolled()
        question, issued = self.asked(phone)
        wrong = f"{(int(issued.match_number) + 1) % 10**question.message.digits:0{question.message.digits}}"
        self.assertEqual(phone.approve(question, wrong), approvals_pb2.OUTCOME_KIND_WRONG_NUMBER)
        with self.refused("APPROVAL_ENDED", "FAILED_PRECONDITION") as ended:
            phone.approve(question, issued.match_number)
        self.assertEqual(ended.refusal.metadata["outcome"], "wrong number")

    def test_an_answer_to_a_cancelled_approval(self):
        phone = self.enrolled()
        question, issued = self.asked(phone)
        self.assertEqual(login.cancel(issued.approval_id).kind, approvals_pb2.OUTCOME_KIND_CANCELLED)
        with self.refused("APPROVAL_ENDED", "FAILED_PRECONDITION") as ended:
            phone.approve(question, issued.match_number)
        self.assertEqual(ended.refusal.metadata["outcome"], "cancelled")
        with self.refused("APPROVAL_ENDED", "FAILED_PRECONDITION"):
            phone.fetch_challenge(issued.approval_id)
        self.assertEqual(phone.list_waiting()[0], [])

    def test_a_newer_request_of_the_session_supersedes_and_another_stands_beside(self):
        phone = self.enrolled()
        first = login.open(phone.account_name, "one session").issued
        second = login.open(phone.account_name, "one session").issued
        other = login.open(phone.account_name, "another session").issued
        self.assertEqual(login.get(first.approval_id).outcome.kind, approvals_pb2.OUTCOME_KIND_SUPERSEDED)
        waiting, _ = phone.list_waiting()
        self.assertEqual([one.message.approval_id for one in waiting], [second.approval_id, other.approval_id])
        self.assertEqual(len({first.match_number, second.match_number, other.match_number}), 3)
        # The number of one page in the challenge of another comes to nothing, and ends no other.
        self.assertEqual(phone.approve(waiting[1], second.match_number), approvals_pb2.OUTCOME_KIND_WRONG_NUMBER)
        self.assertEqual(phone.approve(waiting[0], second.match_number), approvals_pb2.OUTCOME_KIND_APPROVED)

    def test_a_request_sent_again_is_the_same_approval(self):
        phone = self.enrolled()
        key = uuid.uuid4().hex
        once = login.open(phone.account_name, "session", idempotency_key=key)
        self.assertEqual(login.open(phone.account_name, "session", idempotency_key=key), once)
        with self.refused("IDEMPOTENCY_KEY_REUSED", "ALREADY_EXISTS"):
            login.open(phone.account_name, "another session", idempotency_key=key)

    # ---- the same, late, forged ----

    def test_the_same_answer_again_gets_the_same_reply(self):
        phone = self.enrolled()
        question, issued = self.asked(phone)
        answer = phone.signed_answer(question, APPROVE, issued.match_number)
        self.assertEqual({phone.submit(answer) for _ in range(3)}, {approvals_pb2.OUTCOME_KIND_APPROVED})
        with self.refused("APPROVAL_ENDED", "FAILED_PRECONDITION"):
            phone.submit(phone.signed_answer(question, DENY))

    def test_forged_answers_change_nothing(self):
        phone, stranger = self.enrolled(), self.enrolled()
        question, issued = self.asked(phone)
        denial = phone.signed_answer(question, DENY)

        paired = copied(denial)
        paired.payload = phone.signed_answer(question, APPROVE, issued.match_number).payload
        as_stranger = copied(phone.signed_answer(question, APPROVE, issued.match_number))
        as_stranger.key_id = stranger.authenticator_id
        elsewhere = phone.answer(question, APPROVE, issued.match_number)
        elsewhere.broker_id = "elsewhere"
        as_other = phone.answer(question, APPROVE, issued.match_number)
        as_other.authenticator_id = stranger.authenticator_id
        garbled = copied(denial)
        garbled.signature = bytes(64)
        forgeries = {
            "an answer with the number put in": paired,
            "under another phone's id": as_stranger,
            "for another broker": phone.sign("answer", elsewhere),
            "in another phone's name": phone.sign("answer", as_other),
            "without a signature": garbled,
            "by another key": countersign_phone.sign(
                SigningKey.generate(self.algorithm),
                "answer",
                phone.authenticator_id,
                phone.answer(question, APPROVE, issued.match_number),
            ),
        }
        if self.algorithm == ES256:
            high = copied(phone.signed_answer(question, APPROVE, issued.match_number))
            high.signature = other_form(high.signature)
            forgeries["with the other form of its signature"] = high
        for what, envelope in forgeries.items():
            with self.subTest(what), self.refused("SIGNATURE_INVALID", "UNAUTHENTICATED"):
                phone.submit(envelope)

        mismatched = phone.answer(question, APPROVE, issued.match_number)
        mismatched.challenge_hash = bytes(32)
        with self.refused("CHALLENGE_MISMATCH", "INVALID_ARGUMENT"):
            phone.submit(phone.sign("answer", mismatched))
        unlike = copied(denial)
        unlike.payload_type = "text/plain"
        with self.refused("MALFORMED_ENVELOPE", "INVALID_ARGUMENT"):
            phone.submit(unlike)

        # After all of that, it waits as before.
        self.assertEqual(phone.approve(question, issued.match_number), approvals_pb2.OUTCOME_KIND_APPROVED)

    def test_another_accounts_challenge_is_not_found(self):
        phone, stranger = self.enrolled(), self.enrolled()
        _, issued = self.asked(phone)
        with self.refused("APPROVAL_NOT_FOUND", "NOT_FOUND"):
            stranger.fetch_challenge(issued.approval_id)

    def test_a_read_without_a_nonce_is_handed_one(self):
        phone = self.enrolled()
        for stale in b"", b"made up", bytes(64):
            phone.nonce = stale
            self.assertEqual(phone.list_waiting()[0], [])
            self.assertNotIn(phone.nonce, (b"", stale))

    def test_an_acknowledgement_needs_the_token_of_the_push(self):
        phone = self.enrolled()
        _, issued = self.asked(phone)
        with self.refused("ACKNOWLEDGEMENT_INVALID", "UNAUTHENTICATED"):
            phone.acknowledge(countersign_phone.DELIVERED, issued.approval_id, bytes(32))

    # ---- enrolment that fails ----

    def test_a_wrong_secret_counts_and_the_fifth_ends_the_code(self):
        begun = page.begin(new_account())
        uri = EnrolmentUri.parse(begun.uri)
        wrong = EnrolmentCode(uri.code.locator, other_secret(uri.code.secret))
        wrong_uri = EnrolmentUri(uri.address, wrong, uri.broker_fingerprint).text()
        for _ in range(5):
            with self.refused("ENROLMENT_CODE_INVALID", "UNAUTHENTICATED"):
                Phone.enrol(wrong_uri, self.algorithm, self.target(), "A thief's phone", CA_FILE)
        with self.refused("ENROLMENT_CODE_INVALID", "UNAUTHENTICATED"):
            Phone.enrol(begun.uri, self.algorithm, self.target(), "Åsa's phone", CA_FILE)
        steps = list(page.watch(begun.enrolment_id))
        refusals = [step.code_refused.attempts_left for step in steps if step.HasField("code_refused")]
        self.assertEqual(refusals, [4, 3, 2, 1, 0])
        self.assertEqual(steps[-1].ended.reason, enrolments_pb2.ENROLMENT_END_CODE_REFUSED)

    def test_a_qr_code_that_names_another_key_is_not_followed(self):
        uri = EnrolmentUri.parse(page.begin(new_account()).uri)
        other = SigningKey.generate(ED25519).public_key.fingerprint()
        with self.assertRaises(Refused):
            Phone.enrol(EnrolmentUri(uri.address, uri.code, other).text(), self.algorithm, self.target(), "A phone", CA_FILE)

    def test_a_wrong_number_ends_the_trial_and_the_key(self):
        begun = page.begin(new_account())
        phone = Phone.enrol(begun.uri, self.algorithm, self.target(), "Åsa's phone", CA_FILE)
        number = trial_number(begun.enrolment_id)
        wrong = f"{(int(number) + 1) % 10 ** len(number):0{len(number)}}"
        answer = phone.signed_trial_answer(wrong)
        # The reply to the same answer is the same, although the key is refused by then.
        self.assertEqual({phone.submit(answer) for _ in range(2)}, {approvals_pb2.OUTCOME_KIND_WRONG_NUMBER})
        with self.refused("SIGNATURE_INVALID", "UNAUTHENTICATED"):
            phone.answer_trial(number)
        self.assertEqual(list(page.watch(begun.enrolment_id))[-1].ended.reason, enrolments_pb2.ENROLMENT_END_WRONG_NUMBER)

    def test_a_phone_on_trial_is_not_asked(self):
        begun = page.begin(new_account())
        phone = Phone.enrol(begun.uri, self.algorithm, self.target(), "Åsa's phone", CA_FILE)
        reply = login.open(phone.account_name, "session")
        self.assertEqual(reply.outcome.kind, approvals_pb2.OUTCOME_KIND_UNREACHABLE)
        self.assertEqual(phone.list_waiting()[0], [])

    # ---- the life of a phone ----

    def test_a_second_phone_is_announced_to_the_first_and_not_asked_about_what_waits(self):
        first = self.enrolled()
        waits = login.open(first.account_name, "session").issued
        second = self.enrolled(first.account_name, "Åsa's tablet")
        _, notices = first.list_waiting()
        self.assertIn(
            (signed_pb2.Notice.KIND_AUTHENTICATOR_ADDED, second.authenticator_id, "Åsa's tablet"),
            [(notice.kind, notice.subject_authenticator_id, notice.subject_device_name) for notice in notices],
        )
        self.assertEqual(second.list_waiting()[0], [])
        with self.refused("APPROVAL_NOT_FOUND", "NOT_FOUND"):
            second.fetch_challenge(waits.approval_id)

        both = login.open(first.account_name, "another session").issued
        self.assertEqual(both.authenticators_addressed, 2)
        (mine,), _ = second.list_waiting()
        self.assertEqual(second.approve(mine, both.match_number), approvals_pb2.OUTCOME_KIND_APPROVED)

    def test_a_push_target_is_replaced_by_a_counter_that_rises(self):
        phone = self.enrolled()
        phone.replace_push_target(self.target())
        phone.replace_push_target(self.target(), counter=17)
        # The same change again: its reply may have been lost on the way.
        phone.replace_push_target(self.target(), counter=17)
        with self.refused("COUNTER_NOT_RISING", "FAILED_PRECONDITION"):
            phone.replace_push_target(fcm("another"), counter=17)
        for old in 16, 2, 0:
            with self.refused("COUNTER_NOT_RISING", "FAILED_PRECONDITION"):
                phone.replace_push_target(self.target(), counter=old)
        with self.assertRaises(CallRefused) as bad:
            phone.replace_push_target(fcm("two words"), counter=18)
        self.assertEqual((bad.exception.code.name, bad.exception.fields), ("INVALID_ARGUMENT", ["push_target"]))

    def test_a_phone_that_left_is_nobody(self):
        phone = self.enrolled()
        question, issued = self.asked(phone)
        phone.unenrol()
        for call in (
            lambda: phone.approve(question, issued.match_number),
            phone.list_waiting,
            phone.unenrol,
            lambda: phone.replace_push_target(self.target()),
        ):
            with self.refused("SIGNATURE_INVALID", "UNAUTHENTICATED"):
                call()
        reply = login.open(phone.account_name, "another session")
        self.assertEqual(reply.outcome.kind, approvals_pb2.OUTCOME_KIND_UNREACHABLE)

    def test_a_revoked_phone_is_nobody(self):
        phone = self.enrolled()
        question, issued = self.asked(phone)
        page.revoke(phone.account_name, phone.authenticator_id)
        page.revoke(phone.account_name, phone.authenticator_id)
        with self.refused("SIGNATURE_INVALID", "UNAUTHENTICATED"):
            phone.approve(question, issued.match_number)
        self.assertEqual(only(page.authenticators(phone.account_name)).state, enrolments_pb2.Authenticator.STATE_REVOKED)

    # ---- helpers ----

    def target(self):
        return type(self).push_target()

    def enrolled(self, account=None, device_name="Åsa's phone"):
        begun = page.begin(account or new_account())
        phone = Phone.enrol(begun.uri, self.algorithm, self.target(), device_name, CA_FILE)
        phone.answer_trial(trial_number(begun.enrolment_id))
        return phone

    def asked(self, phone):
        """A sign-in of a session of its own waits: the checked challenge, and what the login page has."""
        issued = login.open(phone.account_name, uuid.uuid4().hex).issued
        question, _ = phone.fetch_challenge(issued.approval_id)
        return question, issued


class Ed25519(WithPhone, BrokerTest):
    """An Android phone."""

    algorithm = ED25519

    @staticmethod
    def push_target():
        return fcm(setting("FCM_REGISTRATION_TOKEN"))


class Es256(WithPhone, BrokerTest):
    """An iPhone: its Secure Enclave has P-256 alone."""

    algorithm = ES256

    @staticmethod
    def push_target():
        return apns(setting("APNS_DEVICE_TOKEN"))


class Callers(BrokerTest):
    """What the broker's callers may and may not do, whatever phone there is."""

    def test_an_account_that_nobody_enrolled_is_not_found(self):
        with self.refused("ACCOUNT_NOT_FOUND", "NOT_FOUND"):
            login.open(new_account(), "session")

    def test_a_key_is_good_for_its_scope_only(self):
        server = channel(ADDRESS, CA_FILE)
        with self.refused("SCOPE_MISSING", "PERMISSION_DENIED"):
            EnrollingPage(server, setting("SIGN_IN_KEY")).begin(new_account())
        with self.refused("SCOPE_MISSING", "PERMISSION_DENIED"):
            LoginServer(server, setting("ENROLMENT_KEY"), APPLICATION).open(new_account(), "session")

    def test_without_a_good_key_nobody_is_anybody(self):
        good = setting("SIGN_IN_KEY")
        for bad in "", "csk_", good[:-1], good[:-1] + ("0" if good[-1] != "0" else "1"), good.upper():
            with self.subTest(len(bad)), self.refused("CREDENTIAL_INVALID", "UNAUTHENTICATED"):
                LoginServer(channel(ADDRESS, CA_FILE), bad, APPLICATION).open(new_account(), "session")
        nobody = LoginServer(channel(ADDRESS, CA_FILE), "", APPLICATION)
        nobody.authorization = []
        with self.refused("CREDENTIAL_MISSING", "UNAUTHENTICATED"):
            nobody.open(new_account(), "session")

    def test_an_application_that_is_not_registered_is_refused_by_its_field(self):
        other = LoginServer(channel(ADDRESS, CA_FILE), setting("SIGN_IN_KEY"), "Another application")
        with self.assertRaises(CallRefused) as refused:
            other.open(new_account(), "session")
        self.assertEqual((refused.exception.code.name, refused.exception.fields), ("INVALID_ARGUMENT", ["application"]))

    def test_another_realms_account_is_refused(self):
        with self.refused("REALM_NOT_ALLOWED", "PERMISSION_DENIED"):
            login.open("somebody", "session", realm="another-realm")

    def test_an_approval_that_nobody_asked_for_is_not_found(self):
        for made_up in "0" * 52, "none":
            for ask in login.get, login.cancel, login.wait, lambda it: list(login.watch(it)):
                with self.assertRaises(CallRefused) as refused:
                    ask(made_up)
                self.assertIn(refused.exception.code.name, ("NOT_FOUND", "INVALID_ARGUMENT"))

    def test_the_broker_describes_itself_as_its_qr_codes_do(self):
        begun = page.begin(new_account())
        broker = Phone._describe(countersign_phone.authenticators_pb2_grpc.AuthenticatorsStub(channel(ADDRESS, CA_FILE)))
        self.assertIsInstance(broker.key, PublicKey)
        self.assertEqual(broker.key.fingerprint(), EnrolmentUri.parse(begun.uri).broker_fingerprint)


class closing:
    """Hangs a stream up at the end of the block."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        return self.stream

    def __exit__(self, *_):
        self.stream.close()


def new_account():
    return f"åsa-{uuid.uuid4()}"


def trial_number(enrolment_id):
    """What the enrolling page shows."""
    with closing(page.watch(enrolment_id)) as steps:
        return next(step.trial.match_number for step in steps if step.HasField("trial"))


def other_secret(secret):
    return ("0" if secret[0] != "0" else "1") + secret[1:]


def copied(message):
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def only(one):
    (found,) = one
    return found
