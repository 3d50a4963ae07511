// The SDK's error classes, without retries. Each server under test has its own misfortune; the URLs of
// their APIs are in the environment.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as blob from '@vercel/blob';

const { HEALTHY_URL, SUSPENDED_URL, THROTTLED_URL, UNAVAILABLE_URL, DROPPING_URL, WEAK_URL } = process.env;
const access = 'public';
const at = (url) => {
  process.env.VERCEL_BLOB_API_URL = url;
  process.env.VERCEL_BLOB_RETRIES = '0';
};

test('a wrong token', async () => {
  at(HEALTHY_URL);
  for (const token of ['vercel_blob_rw_sdk_wrong', 'vercel_blob_client_sdk_bm9uc2Vuc2U=', 'x']) {
    await assert.rejects(blob.list({ token }), blob.BlobAccessError, token);
    await assert.rejects(blob.put('a', 'x'.repeat(5_000_000), { access, token }), blob.BlobAccessError);
  }
});

test('another store', async () => {
  at(HEALTHY_URL);
  const oidcToken = process.env.BLOB_READ_WRITE_TOKEN;
  await assert.rejects(blob.list({ oidcToken, storeId: 'other' }), blob.BlobStoreNotFoundError);
  await blob.list({ oidcToken, storeId: 'store_SDK' });
});

test('an absent blob', async () => {
  at(HEALTHY_URL);
  await assert.rejects(blob.head('absent'), blob.BlobNotFoundError);
});

test('bad requests say what is wrong', async () => {
  at(HEALTHY_URL);
  await assert.rejects(blob.list({ limit: 1001 }), /the limit must be between 1 and 1000/);
  await assert.rejects(blob.put('a', 'x', { access, cacheControlMaxAge: 1 }), /at least 60 seconds/);
  await assert.rejects(blob.put('a/../b', 'x', { access }), /segment/);
  await assert.rejects(blob.head('https://other.public.blob.vercel-storage.com/a'), /not one of this store/);
  const optimizeImage = { width: 64, quality: 75 };
  const image = blob.putFromUrl('a', 'https://example.com/a.png', { access, optimizeImage });
  await assert.rejects(image, blob.BlobUnknownError, 'refused as `not_allowed`, which has no class');
});

test('a base URL that ends in a slash', async () => {
  at(`${HEALTHY_URL}/`);
  const put = await blob.put('slash.txt', 'x', { access });
  assert.equal((await blob.head(put.pathname)).size, 1);
  assert.equal((await blob.list({ prefix: 'slash' })).blobs.length, 1);
  await blob.copy(put.pathname, 'slash-copy.txt', { access });
  await blob.put('slash-multipart.txt', 'x', { access, multipart: true });
  await blob.del(put.pathname);
  await assert.rejects(blob.head(put.pathname), blob.BlobNotFoundError);
});

test('a path that is no API', async () => {
  at(`${HEALTHY_URL}/nothing`);
  await assert.rejects(blob.list(), (error) => {
    assert.ok(!(error instanceof blob.BlobNotFoundError) && !(error instanceof blob.BlobUnknownError));
    return /there is no GET/.test(error.message);
  });
});

test('suspended', async () => {
  at(SUSPENDED_URL);
  await assert.rejects(blob.list(), blob.BlobStoreSuspendedError);
});

test('throttled', async () => {
  at(THROTTLED_URL);
  const calls = await Promise.allSettled(Array.from({ length: 40 }, () => blob.list()));
  const refused = calls.filter((call) => call.status === 'rejected').map((call) => call.reason);
  assert.ok(refused.length >= 10, `${refused.length} of 40 refused`);
  for (const error of refused) {
    assert.ok(error instanceof blob.BlobServiceRateLimited, String(error));
    assert.equal(error.retryAfter, 1);
  }
});

test('unavailable, and unknown', async () => {
  at(UNAVAILABLE_URL);
  await assert.rejects(blob.put('a', 'x', { access }), blob.BlobServiceNotAvailable);
  await assert.rejects(blob.put('a', 'x', { access }), blob.BlobUnknownError);
  assert.equal((await blob.head('a')).size, 1, 'the lost reply was to a write that took effect');
});

test('a dropped connection is tried again', async () => {
  at(DROPPING_URL);
  await blob.list();
  await assert.rejects(blob.list(), /fetch failed/);
  await blob.list();
  process.env.VERCEL_BLOB_RETRIES = '2';
  await blob.list();
});

test('a weakened ETag fails its condition', async () => {
  at(WEAK_URL);
  await blob.put('weak.json', '{}', { access });
  const got = await blob.get('weak.json', { access });
  assert.match(got.blob.etag, /^W\/"/);
  await assert.rejects(
    blob.put('weak.json', '[]', { access, ifMatch: got.blob.etag }),
    blob.BlobPreconditionFailedError,
  );
});
