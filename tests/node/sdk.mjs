// The whole surface of @vercel/blob, on an empty store. From the environment: the SDK's own variables,
// ACCESS (public or private) and STORE_ID.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import test from 'node:test';
import * as blob from '@vercel/blob';
import { generateClientTokenFromReadWriteToken, put as clientPut } from '@vercel/blob/client';

const access = process.env.ACCESS;
const host = `https://${process.env.STORE_ID.toLowerCase()}.${access}.blob.vercel-storage.com`;
const MB = 1024 * 1024;
const etagOf = (body) => `"${createHash('md5').update(body).digest('hex')}"`;
const names = (listed) => listed.blobs.map((entry) => entry.pathname);

function withResolvers() {
  let resolve;
  const promise = new Promise((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

async function read(name, options) {
  const reply = await blob.get(name, { access, ...options });
  return reply && { ...reply.blob, body: Buffer.from(await new Response(reply.stream).arrayBuffer()) };
}

test('put: what it returns, head, list and get agree', async () => {
  const put = await blob.put('basics/hello.txt', 'hello', { access });
  assert.deepEqual(put, {
    url: `${host}/basics/hello.txt`,
    downloadUrl: `${host}/basics/hello.txt?download=1`,
    pathname: 'basics/hello.txt',
    contentType: 'text/plain',
    contentDisposition: 'inline; filename="hello.txt"',
    etag: etagOf('hello'),
  });
  for (const name of [put.url, put.pathname]) {
    const head = await blob.head(name);
    assert.equal(head.size, 5);
    assert.equal(head.etag, put.etag);
    assert.equal(head.cacheControl, 'public, max-age=2592000');
    assert.ok(Math.abs(head.uploadedAt - Date.now()) < 60_000);
    const got = await read(name);
    assert.equal(got.body.toString(), 'hello');
    assert.equal(got.etag, put.etag);
    assert.equal(got.size, 5);
    assert.equal(got.contentType, 'text/plain');
    assert.equal(got.uploadedAt.getTime(), Math.floor(head.uploadedAt.getTime() / 1000) * 1000);
  }
  const { blobs, hasMore } = await blob.list({ prefix: 'basics/' });
  assert.deepEqual([blobs.length, blobs[0].etag, blobs[0].size, hasMore], [1, put.etag, 5, false]);
});

test('put: every kind of body', async () => {
  const bytes = randomBytes(300_000);
  const bodies = {
    string: 'täxt',
    buffer: bytes,
    blob: new Blob([bytes], { type: 'image/png' }),
    arrayBuffer: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length),
    nodeStream: Readable.from([bytes.subarray(0, 1000), bytes.subarray(1000)]),
    webStream: new Blob([bytes]).stream(),
    file: new File([bytes], 'other-name.gif'),
  };
  for (const [kind, body] of Object.entries(bodies)) {
    const put = await blob.put(`bodies/${kind}.bin`, body, { access });
    const expected = kind === 'string' ? Buffer.from(body) : bytes;
    assert.equal(put.etag, etagOf(expected), kind);
    assert.equal(put.contentType, 'application/octet-stream', `${kind}: the type is that of the name`);
    assert.deepEqual((await read(put.url)).body, expected, kind);
  }
});

test('put: progress is reported', async () => {
  const body = randomBytes(200_000);
  // The SDK reports at most every 100 ms, so the last event may come after the reply.
  const { promise: finished, resolve } = withResolvers();
  const onUploadProgress = (event) => event.percentage === 100 && resolve(event);
  const put = await blob.put('progress.bin', body, { access, onUploadProgress });
  assert.equal(put.etag, etagOf(body));
  assert.equal((await finished).loaded, 200_000);
});

test('put: options', async () => {
  const options = { access, contentType: 'text/csv', cacheControlMaxAge: 120, addRandomSuffix: true };
  const put = await blob.put('options/table.old.csv', 'a,b', options);
  assert.match(put.pathname, /^options\/table\.old-[A-Za-z0-9]{30}\.csv$/);
  assert.equal(put.url, `${host}/${put.pathname}`);
  assert.equal(put.contentType, 'text/csv');
  assert.match(put.contentDisposition, /^attachment; filename="table\.old-[A-Za-z0-9]{30}\.csv"$/);
  assert.equal((await blob.head(put.pathname)).cacheControl, 'public, max-age=120');
});

test('put: a taken name, an overwrite, a condition', async () => {
  const first = await blob.put('taken.txt', '1', { access });
  await assert.rejects(blob.put('taken.txt', '2', { access }), (error) => {
    assert.ok(error instanceof blob.BlobError);
    assert.match(error.message, /This blob already exists, use `allowOverwrite: true`/);
    return true;
  });
  const second = await blob.put('taken.txt', '2', { access, allowOverwrite: true });
  assert.notEqual(first.etag, second.etag);
  await assert.rejects(
    blob.put('taken.txt', '3', { access, ifMatch: first.etag }),
    blob.BlobPreconditionFailedError,
  );
  await assert.rejects(
    blob.put('taken.txt', '3', { access, ifMatch: `W/${second.etag}` }),
    blob.BlobPreconditionFailedError,
  );
  await blob.put('taken.txt', '3', { access, ifMatch: second.etag });
  assert.equal((await read('taken.txt', { useCache: access === 'public' })).body.toString(), '3');
  await assert.rejects(
    blob.put('absent.txt', '1', { access, ifMatch: first.etag }),
    blob.BlobPreconditionFailedError,
  );
});

test('put: odd names', async () => {
  for (const name of ['odd/a b+c.json', 'odd/ünï/日本 🦀.json', "odd/it's (1)!.txt", 'odd/100%25.txt']) {
    const put = await blob.put(name, name, { access });
    assert.equal(put.pathname, name);
    assert.equal((await blob.head(name)).pathname, name);
    assert.equal((await blob.head(put.url)).pathname, name);
    assert.equal((await read(put.url)).body.toString(), name);
  }
  // get() of a pathname does not encode `#` and `?`; of a URL it does.
  const put = await blob.put('odd/a#b?c.json', '{}', { access });
  assert.equal((await read(put.url)).body.toString(), '{}');
});

test('the other access mode is refused', async () => {
  const other = access === 'public' ? 'private' : 'public';
  await assert.rejects(blob.put('other.txt', 'x', { access: other }), (error) => {
    assert.match(error.message, new RegExp(`Cannot use ${other} access on a ${access} store`));
    return true;
  });
});

test('createFolder, and folded listings', async () => {
  const folder = await blob.createFolder('folders/empty/', { access });
  assert.deepEqual([folder.pathname, folder.url], ['folders/empty/', `${host}/folders/empty/`]);
  for (const name of ['folders/a.txt', 'folders/sub/1.txt', 'folders/sub/2.txt', 'folders/sub/deep/3.txt']) {
    await blob.put(name, 'x', { access });
  }
  const folded = await blob.list({ prefix: 'folders/', mode: 'folded' });
  assert.deepEqual(names(folded), ['folders/a.txt']);
  assert.deepEqual(folded.folders, ['folders/empty/', 'folders/sub/']);
  const expanded = await blob.list({ prefix: 'folders/' });
  assert.equal(expanded.blobs.length, 5);
  assert.equal(expanded.folders, undefined);
});

test('list: pages', async () => {
  const all = Array.from({ length: 25 }, (_, n) => `pages/${String(n).padStart(3, '0')}.json`);
  await Promise.all(all.toReversed().map((name) => blob.put(name, '{}', { access })));
  for (const mode of ['expanded', 'folded']) {
    const seen = [];
    let cursor;
    do {
      const page = await blob.list({ prefix: 'pages/', limit: 10, cursor, mode });
      assert.equal(page.hasMore, Boolean(page.cursor));
      seen.push(...names(page));
      cursor = page.cursor;
    } while (cursor);
    assert.deepEqual(seen, all);
  }
  await assert.rejects(blob.list({ cursor: 'nonsense' }), blob.BlobError);
});

test('copy', async () => {
  const source = await blob.put('copy/source.json', '{}', { access, contentType: 'text/csv' });
  for (const from of [source.url, source.pathname]) {
    const copy = await blob.copy(from, 'copy/target.txt', { access, allowOverwrite: true });
    assert.deepEqual(
      [copy.pathname, copy.url, copy.contentType, copy.etag],
      ['copy/target.txt', `${host}/copy/target.txt`, 'text/plain', source.etag],
    );
  }
  await assert.rejects(blob.copy(source.url, 'copy/target.txt', { access }), /already exists/);
  await blob.copy(source.url, 'copy/target.txt', { access, allowOverwrite: true, ifMatch: source.etag });
  await assert.rejects(
    blob.copy(source.url, 'copy/target.txt', { access, allowOverwrite: true, ifMatch: etagOf('other') }),
    blob.BlobPreconditionFailedError,
  );
  await assert.rejects(blob.copy('copy/absent', 'copy/x', { access }), blob.BlobNotFoundError);
  const suffixed = await blob.copy(source.url, 'copy/s.txt', { access, addRandomSuffix: true });
  assert.match(suffixed.pathname, /^copy\/s-[A-Za-z0-9]{30}\.txt$/);
});

test('rename', async () => {
  const source = await blob.put('rename/a.txt', 'x', { access });
  const renamed = await blob.rename(source.url, 'rename/b.txt', { access, ifMatch: source.etag });
  assert.deepEqual([renamed.pathname, renamed.etag], ['rename/b.txt', source.etag]);
  assert.deepEqual(names(await blob.list({ prefix: 'rename/' })), ['rename/b.txt']);
  await assert.rejects(blob.rename('rename/a.txt', 'rename/c.txt', { access }), blob.BlobNotFoundError);
});

test('del: one, many, none, absent ones, and with a condition', async () => {
  const put = (name) => blob.put(`del/${name}`, name, { access });
  const [a, b, c, d] = await Promise.all(['a', 'b', 'c d#?', 'd'].map(put));
  await blob.del(a.url);
  await blob.del([b.url, c.pathname, 'del/absent']);
  assert.deepEqual(names(await blob.list({ prefix: 'del/' })), ['del/d']);
  await blob.del([]);
  await blob.del('del/absent');
  await assert.rejects(blob.del(d.url, { ifMatch: a.etag }), blob.BlobPreconditionFailedError);
  await blob.del(d.url, { ifMatch: d.etag });
  await assert.rejects(blob.head(d.url), blob.BlobNotFoundError);
  assert.equal(await read(d.url), null);
});

test('get: conditions, past the cache, ranges and downloads', async () => {
  const put = await blob.put('get.txt', '0123456789', { access });
  const same = await blob.get('get.txt', { access, ifNoneMatch: put.etag });
  assert.deepEqual([same.statusCode, same.stream, same.blob.etag], [304, null, put.etag]);
  assert.equal((await read('get.txt', { ifNoneMatch: '"other"' })).body.toString(), '0123456789');
  const fresh = await read('get.txt', { useCache: false });
  assert.equal(fresh.body.toString(), '0123456789');
  assert.equal(fresh.cacheControl, access === 'private' ? 'no-store' : 'public, max-age=2592000');
  assert.equal((await read('get.txt', { headers: { range: 'bytes=2-4' } })).body.toString(), '234');
  assert.equal(await read('never.txt'), null);
});

test('multipart: put splits a large body', async () => {
  const body = randomBytes(17 * MB);
  for (const [name, source] of [['buffer', body], ['stream', Readable.from([body])]]) {
    const put = await blob.put(`multipart/${name}.bin`, source, { access, multipart: true });
    assert.match(put.etag, /^"[0-9a-f]{32}-3"$/);
    assert.deepEqual((await read(put.url)).body, body);
  }
  const small = await blob.put('multipart/small.txt', 'small', { access, multipart: true });
  assert.equal((await read(small.url)).body.toString(), 'small');
  const empty = new Blob([]).stream();
  await assert.rejects(blob.put('multipart/empty', empty, { access, multipart: true }), blob.BlobError);
  await assert.rejects(
    blob.put('multipart/small.txt', 'x', { access, multipart: true, ifMatch: etagOf('other') }),
    blob.BlobPreconditionFailedError,
  );
  await blob.put('multipart/small.txt', 'x', { access, multipart: true, ifMatch: small.etag });
});

test('multipart: by hand, in any order', async () => {
  const name = 'multipart/by hand ü.bin';
  const parts = [randomBytes(5 * MB), randomBytes(6 * MB), Buffer.from('end')];
  const { uploadId, key } = await blob.createMultipartUpload(name, { access, contentType: 'image/x-big' });
  const sent = [];
  for (const partNumber of [3, 1, 2]) {
    const options = { access, uploadId, key, partNumber };
    sent.push(await blob.uploadPart(name, parts[partNumber - 1], options));
  }
  assert.deepEqual(sent.map((part) => part.partNumber), [3, 1, 2]);
  const put = await blob.completeMultipartUpload(name, sent, { access, uploadId, key });
  assert.deepEqual([put.pathname, put.contentType], [name, 'image/x-big']);
  assert.deepEqual((await read(put.url)).body, Buffer.concat(parts));
});

test('multipart: with an uploader', async () => {
  const uploader = await blob.createMultipartUploader('multipart/uploader.bin', {
    access,
    addRandomSuffix: true,
  });
  const sent = [
    await uploader.uploadPart(1, randomBytes(5 * MB)),
    await uploader.uploadPart(2, 'the end'),
  ];
  const put = await uploader.complete(sent);
  assert.match(put.pathname, /^multipart\/uploader-[A-Za-z0-9]{30}\.bin$/);
  assert.equal((await blob.head(put.url)).size, 5 * MB + 7);
});

test('client tokens', async () => {
  const grant = (options) => generateClientTokenFromReadWriteToken(options);
  const put = async (pathname, body, options, more) =>
    clientPut(pathname, body, { access, token: await grant(options), ...more });
  const pathname = 'client/a.txt';
  await put(pathname, 'from a browser', { pathname });
  assert.equal((await read(pathname)).body.toString(), 'from a browser');
  await assert.rejects(put(pathname, 'again', { pathname }), /already exists/);
  await put(pathname, 'again', { pathname, allowOverwrite: true });
  const suffixed = await put(pathname, 'x', { pathname, addRandomSuffix: true });
  assert.match(suffixed.pathname, /^client\/a-[A-Za-z0-9]{30}\.txt$/);

  await assert.rejects(put('client/b.txt', 'x', { pathname }), blob.BlobPathnameMismatchError);
  await assert.rejects(put(pathname, 'x', { pathname, validUntil: 1 }), blob.BlobClientTokenExpiredError);
  const images = { pathname: 'client/b.txt', allowedContentTypes: ['image/*'] };
  await assert.rejects(put('client/b.txt', 'x', images), blob.BlobContentTypeNotAllowedError);
  await put('client/b.txt', 'x', images, { contentType: 'image/png' });
  const small = { pathname: 'client/c.txt', maximumSizeInBytes: 10 };
  await assert.rejects(put('client/c.txt', 'x'.repeat(11), small), blob.BlobFileTooLargeError);
  await put('client/c.txt', 'x'.repeat(10), small);
  const limited = { pathname: 'client/d.bin', maximumSizeInBytes: 9 * MB };
  await assert.rejects(
    put('client/d.bin', randomBytes(10 * MB), limited, { multipart: true }),
    blob.BlobFileTooLargeError,
  );
  await put('client/e.bin', randomBytes(9 * MB), { ...limited, pathname: 'client/e.bin' }, { multipart: true });

  const token = await grant({ pathname });
  await assert.rejects(blob.head(pathname, { token }), /not available when using a client token/);
  await assert.rejects(blob.list({ token }), /not available when using a client token/);
  await assert.rejects(blob.del(pathname, { token }), /not available when using a client token/);
  const forged = `${token.slice(0, -4)}AAAA`;
  await assert.rejects(clientPut(pathname, 'x', { access, token: forged }), blob.BlobAccessError);
});
