"""firebase-admin sends to the simulated FCM: `send` over HTTP/1.1, `send_each_async` over HTTP/2.

The host is a constant of its messaging service, the token endpoint stands in the service account file, and the trusted
certificate comes from REQUESTS_CA_BUNDLE and SSL_CERT_FILE, which `run` sets. Nothing else is changed.
"""

import datetime
import json
import os
import time
import unittest
from unittest import mock

import firebase_admin
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from firebase_admin import credentials, exceptions, messaging
from google.auth.exceptions import RefreshError

SERVICES = json.loads(os.environ["PUSH_SERVICES"])
TARGETS = SERVICES["targets"]["fcm"]
with open(SERVICES["service_account_file"], encoding="utf-8") as file:
    ACCOUNT = json.load(file)

messaging._MessagingService.FCM_URL = SERVICES["fcm_url"] + "/v1/projects/{0}/messages:send"


class FirebaseAdmin(unittest.TestCase):
    def setUp(self):
        self.app = self.make_app()

    def make_app(self, account=None, **options):
        certificate = credentials.Certificate(ACCOUNT | (account or {}))
        app = firebase_admin.initialize_app(certificate, options, name=f"{self.id()} {time.monotonic_ns()}")
        self.addCleanup(firebase_admin.delete_app, app)
        return app

    def send(self, token=TARGETS["good"], app=None, dry_run=False, **message):
        return messaging.send(messaging.Message(token=token, **message), dry_run=dry_run, app=app or self.app)

    def assert_refused(self, kind, status, **message):
        """The error that the client makes of the answer, and the answer's status."""
        with self.assertRaises(kind) as caught:
            self.send(**message)
        self.assertIs(type(caught.exception), kind)
        self.assertEqual(caught.exception.http_response.status_code, status)
        return caught.exception

    def test_a_data_message_is_accepted_and_named(self):
        android = messaging.AndroidConfig(priority="high", ttl=datetime.timedelta(seconds=60), data={"approval": "1"})
        name = self.send(data={"a": "b"}, android=android)
        self.assertRegex(name, rf"^projects/{SERVICES['project_id']}/messages/[^/]+$")

    def test_a_message_of_every_kind_is_accepted(self):
        color = "#f0a1b2"
        self.send(
            notification=messaging.Notification("Title", "Body", image="https://example.com/i.png"),
            android=messaging.AndroidConfig(
                collapse_key="key",
                restricted_package_name=SERVICES["topic"],
                notification=messaging.AndroidNotification(
                    color=color,
                    body_loc_key="key",
                    body_loc_args=["a"],
                    event_timestamp=datetime.datetime(2026, 11, 24),
                    priority="high",
                    vibrate_timings_millis=[100, 50],
                    light_settings=messaging.LightSettings(color, 200, 100),
                    visibility="secret",
                    notification_count=3,
                ),
                direct_boot_ok=True,
            ),
            apns=messaging.APNSConfig(
                headers={"apns-priority": "10"},
                payload=messaging.APNSPayload(messaging.Aps(alert="Hello", badge=1, custom_data={"x": 1})),
                fcm_options=messaging.APNSFCMOptions("label"),
            ),
            webpush=messaging.WebpushConfig(headers={"TTL": "60"}, notification=messaging.WebpushNotification("Title")),
            fcm_options=messaging.FCMOptions("label"),
        )

    def test_an_installation_id_is_as_good_as_a_token(self):
        fid, _ = TARGETS["good"].split(":")
        messaging.send(messaging.Message(fid=fid, data={"a": "b"}), app=self.app)
        fid, _ = TARGETS["dead"].split(":")
        with self.assertRaises(messaging.UnregisteredError):
            messaging.send(messaging.Message(fid=fid), app=self.app)

    def test_a_topic_is_accepted(self):
        messaging.send(messaging.Message(topic="news", data={"a": "b"}), app=self.app)

    def test_a_dry_run_is_checked_and_not_sent(self):
        self.assertTrue(self.send(dry_run=True).endswith("/messages/fake_message_id"))
        self.assert_refused(messaging.UnregisteredError, 404, token=TARGETS["dead"], dry_run=True)

    def test_a_dead_target_is_unregistered(self):
        self.assert_refused(messaging.UnregisteredError, 404, token=TARGETS["dead"])

    def test_another_projects_target_is_a_sender_id_mismatch(self):
        self.assert_refused(messaging.SenderIdMismatchError, 403, token=TARGETS["other_project"])

    def test_what_is_no_token_is_an_invalid_argument(self):
        error = self.assert_refused(exceptions.InvalidArgumentError, 400, token="nonsense")
        self.assertIn("not a valid FCM registration token", str(error))

    def test_4097_bytes_are_an_invalid_argument(self):
        self.assert_refused(exceptions.InvalidArgumentError, 400, data={"k": "x" * 4096})
        self.send(data={"k": "x" * 4095})

    def test_a_reserved_data_key_is_an_invalid_argument(self):
        error = self.assert_refused(exceptions.InvalidArgumentError, 400, data={"from": "x"})
        self.assertIn("from", str(error))

    def test_a_ttl_over_four_weeks_is_an_invalid_argument(self):
        android = messaging.AndroidConfig(ttl=datetime.timedelta(weeks=4, seconds=1))
        self.assert_refused(exceptions.InvalidArgumentError, 400, android=android)

    def test_another_package_name_is_an_invalid_argument(self):
        android = messaging.AndroidConfig(restricted_package_name="com.example.other")
        self.assert_refused(exceptions.InvalidArgumentError, 400, android=android)

    def test_another_project_is_denied(self):
        app = self.make_app(projectId="not-mine")
        self.assert_refused(exceptions.PermissionDeniedError, 403, app=app)

    def test_a_key_that_google_does_not_know_gets_no_token(self):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        app = self.make_app({"private_key": key.decode()})
        with self.assertRaisesRegex(RefreshError, "invalid_grant: Invalid JWT Signature"):
            self.send(app=app)

    def test_an_account_that_google_does_not_know_gets_no_token(self):
        app = self.make_app({"client_email": "someone@else.iam.gserviceaccount.com"})
        with self.assertRaisesRegex(RefreshError, "invalid_grant: Invalid grant: account not found"):
            self.send(app=app)

    def test_a_clock_two_hours_late_gets_no_token(self):
        late = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - datetime.timedelta(hours=2)
        with mock.patch("google.auth._helpers.utcnow", lambda: late):
            with self.assertRaisesRegex(RefreshError, "short-lived token"):
                self.send()

    def test_each_of_many_gets_its_own_answer(self):
        assert_answers_to_each(self, messaging.send_each(one_of_each(), app=self.app))


class FirebaseAdminOverHttp2(unittest.IsolatedAsyncioTestCase):
    async def test_each_of_many_gets_its_own_answer(self):
        app = firebase_admin.initialize_app(credentials.Certificate(ACCOUNT), name=self.id())
        batch = await messaging.send_each_async(one_of_each(), dry_run=False, app=app)
        assert_answers_to_each(self, batch)
        for response in batch.responses[1:]:
            self.assertEqual(response.exception.http_response.http_version, "HTTP/2")


def one_of_each():
    return [messaging.Message(token=token) for token in (TARGETS["good"], TARGETS["dead"], "nonsense")]


def assert_answers_to_each(case, batch):
    case.assertEqual((batch.success_count, batch.failure_count), (1, 2))
    good, dead, nonsense = batch.responses
    case.assertIn("/messages/", good.message_id)
    case.assertIsInstance(dead.exception, messaging.UnregisteredError)
    case.assertIsInstance(nonsense.exception, exceptions.InvalidArgumentError)


if __name__ == "__main__":
    unittest.main()
