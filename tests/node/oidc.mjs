// OIDC in place of a read-write token: the SDK takes VERCEL_OIDC_TOKEN and BLOB_STORE_ID. On an empty private
// store; tokens that must be refused are in WRONG_TOKENS.
import assert from 'node:assert/strict';
import test from 'node:test';
import * as blob from '@vercel/blob';

const access = 'private';

test('what an owner may', async () => {
  assert.equal(process.env.BLOB_READ_WRITE_TOKEN, undefined);
  const put = await blob.put('a.txt', 'hello', { access });
  assert.equal((await blob.head(put.url)).size, 5);
  const got = await blob.get(put.url, { access });
  assert.equal(await new Response(got.stream).text(), 'hello');
  const token = await blob.issueSignedToken({ pathname: 'a.txt' });
  const { presignedUrl } = await blob.presignUrl(token, { access, operation: 'get', pathname: 'a.txt' });
  assert.equal(await (await fetch(presignedUrl)).text(), 'hello');
  await blob.del(put.url);
});

test('of this store only', async () => {
  const oidcToken = process.env.VERCEL_OIDC_TOKEN;
  await assert.rejects(blob.list({ oidcToken, storeId: 'other' }), blob.BlobStoreNotFoundError);
  const reply = await fetch(process.env.VERCEL_BLOB_API_URL, { headers: { authorization: `Bearer ${oidcToken}` } });
  assert.equal(reply.status, 403, 'the store must be named');
});

test('other tokens are refused', async () => {
  const wrong = JSON.parse(process.env.WRONG_TOKENS);
  assert.ok(Object.keys(wrong).length > 0);
  for (const [why, oidcToken] of Object.entries(wrong)) {
    const storeId = process.env.BLOB_STORE_ID;
    await assert.rejects(blob.list({ oidcToken, storeId }), blob.BlobAccessError, why);
    await assert.rejects(blob.get('a.txt', { access, oidcToken, storeId }), blob.BlobError, why);
  }
});
