"""aioapns sends to the simulated APNs.

Host and port are constants of aioapns' protocol class, so a subclass has others; the trusted certificate comes with
`ssl_context`, an argument of its constructor. Nothing else is changed.

Two tests run with the client's clock set wrong, as a machine's clock can be: its tokens are then too old, or newer
than APNs allows.
"""

import asyncio
import json
import logging
import os
import pathlib
import ssl
import time
import unittest
import uuid
from unittest import mock
from urllib.parse import urlsplit

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol
from aioapns.exceptions import MaxAttemptsExceeded

SERVICES = json.loads(os.environ["PUSH_SERVICES"])
TARGETS = SERVICES["targets"]["apns"]
ALERT = {"aps": {"alert": "Hello"}}

# aioapns logs every refusal as an error.
logging.getLogger("aioapns").setLevel(logging.CRITICAL)


class SimulatedProtocol(APNsProductionClientProtocol):
    APNS_SERVER = urlsplit(SERVICES["apns_url"]).hostname
    APNS_PORT = urlsplit(SERVICES["apns_url"]).port


def client(**changes):
    options = {
        "key": pathlib.Path(SERVICES["p8_file"]).read_text(),
        "key_id": SERVICES["key_id"],
        "team_id": SERVICES["team_id"],
        "topic": SERVICES["topic"],
        "ssl_context": ssl.create_default_context(cafile=SERVICES["ca_file"]),
        "max_connections": 1,
    }
    apns = APNs(**(options | changes))
    apns.pool.protocol_class = SimulatedProtocol
    return apns


class AioApns(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.clients = []

    async def asyncTearDown(self):
        for apns in self.clients:
            apns.pool.close()

    def client(self, **changes):
        self.clients.append(client(**changes))
        return self.clients[-1]

    async def send(self, target=TARGETS["good"], message=ALERT, apns=None, **request):
        apns = apns or self.client()
        sending = apns.send_notification(NotificationRequest(target, message, **request))
        return await asyncio.wait_for(sending, timeout=20)

    async def assert_refused(self, status, reason, **request):
        result = await self.send(**request)
        self.assertEqual((result.status, result.description), (status, reason))
        return result

    async def test_an_alert_is_accepted_and_its_id_comes_back(self):
        notification_id = str(uuid.uuid4())
        result = await self.send(
            notification_id=notification_id, push_type=PushType.ALERT, priority=10, time_to_live=60, collapse_key="a"
        )
        self.assertTrue(result.is_successful)
        self.assertEqual(result.notification_id, notification_id)

    async def test_a_background_push_is_accepted(self):
        message = {"aps": {"content-available": 1}}
        result = await self.send(message=message, push_type=PushType.BACKGROUND, priority=5)
        self.assertTrue(result.is_successful)

    async def test_many_at_a_time_are_accepted_once_the_token_was_seen(self):
        apns = self.client()
        self.assertTrue((await self.send(apns=apns)).is_successful)
        results = await asyncio.gather(*(self.send(apns=apns) for _ in range(100)))
        self.assertTrue(all(result.is_successful for result in results))
        self.assertEqual(len(apns.pool.connections), 1)

    async def test_an_unknown_target_is_a_bad_device_token(self):
        await self.assert_refused("400", "BadDeviceToken", target="00ff" * 16)

    async def test_a_dead_target_is_unregistered_since_a_time(self):
        result = await self.assert_refused("410", "Unregistered", target=TARGETS["dead"])
        self.assertLess(abs(result.timestamp / 1000 - time.time()), 600)

    async def test_another_apps_target_is_not_for_the_topic(self):
        await self.assert_refused("400", "DeviceTokenNotForTopic", target=TARGETS["other_app"])

    async def test_another_teams_topic_is_disallowed(self):
        await self.assert_refused("400", "TopicDisallowed", apns_topic="com.example.unknown")

    async def test_what_is_no_topic_is_bad(self):
        await self.assert_refused("400", "BadTopic", apns_topic="no/topic")

    async def test_4097_bytes_are_too_large(self):
        text = "x" * (4097 - len(json.dumps({"aps": {"alert": ""}})))
        await self.assert_refused("413", "PayloadTooLarge", message={"aps": {"alert": text}})
        self.assertTrue((await self.send(message={"aps": {"alert": text[1:]}})).is_successful)

    async def test_a_priority_of_7_is_bad(self):
        await self.assert_refused("400", "BadPriority", priority=7)

    async def test_a_background_push_of_priority_10_is_bad(self):
        await self.assert_refused("400", "BadPriority", push_type=PushType.BACKGROUND, priority=10)

    async def test_a_voip_push_needs_its_topic(self):
        await self.assert_refused("400", "InvalidPushType", push_type=PushType.VOIP)

    async def test_a_collapse_id_of_65_bytes_is_bad(self):
        await self.assert_refused("400", "BadCollapseId", collapse_key="c" * 65)

    async def test_a_time_before_1970_is_a_bad_expiration(self):
        await self.assert_refused("400", "BadExpirationDate", time_to_live=-10_000_000_000)

    async def test_another_team_is_an_invalid_provider_token(self):
        await self.assert_refused("403", "InvalidProviderToken", apns=self.client(team_id="OTHERTEAM1"))

    async def test_an_unknown_key_id_is_an_invalid_provider_token(self):
        await self.assert_refused("403", "InvalidProviderToken", apns=self.client(key_id="OTHERKEY01"))

    async def test_a_clock_an_hour_late_makes_an_expired_provider_token(self):
        now = time.time
        with mock.patch("time.time", lambda: now() - 3700):
            await self.assert_refused("403", "ExpiredProviderToken")

    async def test_a_clock_that_jumps_makes_too_many_provider_token_updates(self):
        apns = self.client()
        self.assertTrue((await self.send(apns=apns)).is_successful)
        now = time.time
        # aioapns renews its token when it is half an hour old by the client's clock.
        with mock.patch("time.time", lambda: now() + 1900):
            await self.assert_refused("429", "TooManyProviderTokenUpdates", apns=apns)

    async def test_a_certificate_that_is_not_trusted_is_not_talked_to(self):
        apns = self.client(ssl_context=ssl.create_default_context(), max_connection_attempts=1)
        with self.assertRaises(MaxAttemptsExceeded):
            await self.send(apns=apns)


if __name__ == "__main__":
    unittest.main()
