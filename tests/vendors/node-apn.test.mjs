// @parse/node-apn sends to the simulated APNs.
//
// Host, port and trusted certificate are `address`, `port` and `ca`, options of its Provider. Nothing else is changed.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mock, test } from 'node:test';
import apn from '@parse/node-apn';

const services = JSON.parse(process.env.PUSH_SERVICES);
const targets = services.targets.apns;
const { hostname, port } = new URL(services.apns_url);

function provider(token = {}) {
  return new apn.Provider({
    token: { key: services.p8_file, keyId: services.key_id, teamId: services.team_id, ...token },
    address: hostname,
    port: Number(port),
    ca: services.ca_file,
  });
}

/** Sends one notification over a connection of its own. */
async function send(change = {}, { target = targets.good, token } = {}) {
  const note = new apn.Notification();
  Object.assign(note, { topic: services.topic, pushType: 'alert', alert: 'Hello' }, change);
  const sender = provider(token);
  try {
    return await sender.send(note, target);
  } finally {
    await sender.shutdown();
  }
}

async function refused(status, reason, change, options) {
  const { sent, failed } = await send(change, options);
  assert.deepEqual(sent, []);
  assert.equal(failed.length, 1);
  assert.equal(failed[0].status, status);
  assert.equal(failed[0].response?.reason ?? failed[0].error?.message, reason);
  return failed[0];
}

test('an alert is accepted', async () => {
  const id = randomUUID();
  const { sent, failed } = await send({ id, priority: 10, collapseId: 'a', expiry: Math.floor(Date.now() / 1000) + 60 });
  assert.deepEqual(failed, []);
  assert.equal(sent[0].device, targets.good);
  assert.equal(sent[0]['apns-id'], id);
  assert.match(sent[0]['apns-unique-id'], /^[0-9a-f-]{36}$/);
});

test('many at a time are accepted once the token was seen', async () => {
  const sender = provider();
  const note = new apn.Notification({ aps: { alert: 'Hello' } });
  note.topic = services.topic;
  assert.equal((await sender.send(note, targets.good)).sent.length, 1);
  const { sent, failed } = await sender.send(note, Array(100).fill(targets.good));
  assert.deepEqual([sent.length, failed.length], [100, 0]);
  await sender.shutdown();
});

test('an unknown target is a bad device token', () => refused(400, 'BadDeviceToken', {}, { target: '00ff' }));

test('a dead target is unregistered since a time', async () => {
  const { response } = await refused(410, 'Unregistered', {}, { target: targets.dead });
  assert.ok(Math.abs(response.timestamp - Date.now()) < 600_000, String(response.timestamp));
});

test("another app's target is not for the topic", () =>
  refused(400, 'DeviceTokenNotForTopic', {}, { target: targets.other_app }));

test("another team's topic is disallowed", () => refused(400, 'TopicDisallowed', { topic: 'com.example.unknown' }));

test('a missing topic is missing', () => refused(400, 'MissingTopic', { topic: undefined }));

test('a payload over 4,096 bytes is too large', () => refused(413, 'PayloadTooLarge', { alert: 'x'.repeat(4096) }));

test('an empty payload is empty', () =>
  // node-apn sends no body for a notification without any content.
  refused(400, 'PayloadEmpty', { alert: undefined, aps: {}, payload: {} }));

test('a priority of 7 is bad', () => refused(400, 'BadPriority', { priority: 7 }));

test('an unknown push type is invalid', () => refused(400, 'InvalidPushType', { pushType: 'gossip' }));

test('a live activity needs its topic', async () => {
  await refused(400, 'InvalidPushType', { pushType: 'liveactivity' });
  const topic = `${services.topic}.push-type.liveactivity`;
  assert.equal((await send({ pushType: 'liveactivity', topic })).sent.length, 1);
});

test('a collapse id of 65 bytes is bad', () => refused(400, 'BadCollapseId', { collapseId: 'c'.repeat(65) }));

test('an id that is no UUID is bad', () => refused(400, 'BadMessageId', { id: 'forty-two' }));

test("another team's token is invalid", () =>
  refused(403, 'InvalidProviderToken', {}, { token: { teamId: 'OTHERTEAM1' } }));

test('a token of an unknown key is invalid', () =>
  refused(403, 'InvalidProviderToken', {}, { token: { keyId: 'OTHERKEY01' } }));

test('a clock an hour late makes an expired provider token', async () => {
  // node-apn makes a new token and tries again, which by the same clock is as old.
  mock.timers.enable({ apis: ['Date'], now: Date.now() - 3_700_000 });
  try {
    await refused(403, 'ExpiredProviderToken');
  } finally {
    mock.timers.reset();
  }
});
