// The whole surface of @vercel/blob 1.1.1, which speaks version 11 of the API: no ETags, no conditions, no
// get(). On an empty public store; from the environment: the SDK's own variables, and STORE_ID.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import test from 'node:test';
import * as blob from '@vercel/blob-1';
import { generateClientTokenFromReadWriteToken, put as clientPut } from '@vercel/blob-1/client';

const access = 'public';
const host = `https://${process.env.STORE_ID.toLowerCase()}.public.blob.vercel-storage.com`;
const MB = 1024 * 1024;
const names = (listed) => listed.blobs.map((entry) => entry.pathname);
const read = async (url) => Buffer.from(await (await fetch(url)).arrayBuffer());

test('put, head, list, read', async () => {
  const put = await blob.put('basics/hello.txt', 'hello', { access });
  assert.deepEqual(put, {
    url: `${host}/basics/hello.txt`,
    downloadUrl: `${host}/basics/hello.txt?download=1`,
    pathname: 'basics/hello.txt',
    contentType: 'text/plain',
    contentDisposition: 'inline; filename="hello.txt"',
  });
  const head = await blob.head(put.url);
  assert.deepEqual([head.size, head.cacheControl], [5, 'public, max-age=2592000']);
  assert.ok(Math.abs(head.uploadedAt - Date.now()) < 60_000);
  assert.equal((await read(put.url)).toString(), 'hello');
  const download = await fetch(put.downloadUrl);
  assert.equal(download.headers.get('content-disposition'), 'attachment; filename="hello.txt"');
  const { blobs, hasMore } = await blob.list({ prefix: 'basics/' });
  assert.deepEqual([blobs.length, blobs[0].url, blobs[0].size, hasMore], [1, put.url, 5, false]);
});

test('put: bodies, options, taken names', async () => {
  const bytes = randomBytes(300_000);
  for (const [kind, body] of [['buffer', bytes], ['stream', Readable.from([bytes])], ['blob', new Blob([bytes])]]) {
    const put = await blob.put(`bodies/${kind} ü.bin`, body, { access });
    assert.deepEqual(await read(put.url), bytes, kind);
  }
  const options = { access, contentType: 'text/csv', cacheControlMaxAge: 120, addRandomSuffix: true };
  const put = await blob.put('table.csv', 'a,b', options);
  assert.match(put.pathname, /^table-[A-Za-z0-9]{30}\.csv$/);
  assert.equal((await blob.head(put.url)).cacheControl, 'public, max-age=120');
  await blob.put('taken.txt', '1', { access });
  await assert.rejects(blob.put('taken.txt', '2', { access }), /This blob already exists/);
  await blob.put('taken.txt', '2', { access, allowOverwrite: true });
});

test('createFolder, folded listings and pages', async () => {
  assert.equal((await blob.createFolder('folders/empty/')).pathname, 'folders/empty/');
  for (const name of ['folders/a.txt', 'folders/sub/1.txt', 'folders/sub/2.txt']) {
    await blob.put(name, 'x', { access });
  }
  const folded = await blob.list({ prefix: 'folders/', mode: 'folded' });
  assert.deepEqual([names(folded), folded.folders], [['folders/a.txt'], ['folders/empty/', 'folders/sub/']]);
  const first = await blob.list({ prefix: 'folders/', limit: 3 });
  const rest = await blob.list({ prefix: 'folders/', limit: 3, cursor: first.cursor });
  assert.deepEqual([first.hasMore, names(first).length, names(rest)], [true, 3, ['folders/sub/2.txt']]);
});

test('copy and del', async () => {
  const source = await blob.put('copy/source.json', '{}', { access });
  const copy = await blob.copy(source.url, 'copy/target.txt', { access });
  assert.deepEqual([copy.pathname, copy.contentType], ['copy/target.txt', 'text/plain']);
  await blob.del(source.url);
  await blob.del([copy.url, `${host}/copy/absent`]);
  await assert.rejects(blob.head(copy.url), blob.BlobNotFoundError);
});

test('multipart: by put, by hand, with an uploader', async () => {
  const body = randomBytes(17 * MB);
  const put = await blob.put('multipart/put.bin', body, { access, multipart: true });
  assert.deepEqual(await read(put.url), body);

  const name = 'multipart/by hand.bin';
  const { uploadId, key } = await blob.createMultipartUpload(name, { access });
  const sent = [];
  for (const [partNumber, part] of [[2, 'end'], [1, body.subarray(0, 5 * MB)]]) {
    sent.push(await blob.uploadPart(name, part, { access, uploadId, key, partNumber }));
  }
  const done = await blob.completeMultipartUpload(name, sent, { access, uploadId, key });
  assert.equal((await blob.head(done.url)).size, 5 * MB + 3);

  const uploader = await blob.createMultipartUploader('multipart/uploader.bin', { access });
  const completed = await uploader.complete([await uploader.uploadPart(1, 'small')]);
  assert.equal((await read(completed.url)).toString(), 'small');
});

test('client tokens', async () => {
  const put = async (pathname, body, options) => {
    const token = await generateClientTokenFromReadWriteToken(options);
    return clientPut(pathname, body, { access, token });
  };
  const pathname = 'client/a.txt';
  const stored = await put(pathname, 'from a browser', { pathname });
  assert.equal((await read(stored.url)).toString(), 'from a browser');
  await assert.rejects(put(pathname, 'again', { pathname }), /already exists/);
  await put(pathname, 'again', { pathname, allowOverwrite: true });
  await assert.rejects(put('client/b.txt', 'x', { pathname }), blob.BlobPathnameMismatchError);
  await assert.rejects(put(pathname, 'x', { pathname, validUntil: 1 }), blob.BlobClientTokenExpiredError);
  const images = { pathname, allowedContentTypes: ['image/*'] };
  await assert.rejects(put(pathname, 'x', images), blob.BlobContentTypeNotAllowedError);
  await assert.rejects(put(pathname, 'xx', { pathname, maximumSizeInBytes: 1 }), blob.BlobFileTooLargeError);
});

test('a wrong token', async () => {
  await assert.rejects(blob.list({ token: 'vercel_blob_rw_sdk_wrong' }), blob.BlobAccessError);
});
