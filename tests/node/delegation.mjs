// What an application lets others do: client uploads with their callbacks, signed tokens and signed URLs. On
// an empty private store. The application of these tests is a server in this process, with the SDK's handlers.
import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import test from 'node:test';
import * as blob from '@vercel/blob';
import {
  generateClientTokenFromReadWriteToken,
  handleUpload,
  handleUploadPresigned,
  put as clientPut,
  upload,
  uploadPresigned,
} from '@vercel/blob/client';

const access = 'private';
const MB = 1024 * 1024;
const limit = { timeout: 30_000 };
const base = process.env.VERCEL_BLOB_API_URL;

/// Lets a server listen until the test is over, on the port that callbacks are allowed to. One at a time.
async function listen(t, server) {
  // A client must not take a connection to the last test's server for one to this one.
  server.maxRequestsPerSocket = 1;
  server.listen(process.env.APP_PORT, '127.0.0.1');
  await once(server, 'listening');
  t.after(async () => {
    server.close();
    server.closeAllConnections();
    await once(server, 'close');
  });
  return `http://127.0.0.1:${process.env.APP_PORT}`;
}

/// Runs an application: `options` per upload, what it was told, and how it answers callbacks.
async function application(t, options = {}) {
  const told = [];
  const answers = [];
  let waiting = [];
  const server = createServer(async (request, response) => {
    const body = await new Response(Readable.toWeb(request)).json();
    if (body.type === 'blob.upload-completed' && answers.length > 0) {
      response.writeHead(answers.shift()).end();
      return;
    }
    const onUploadCompleted = async (payload) => {
      told.push(payload);
      for (const resume of waiting.splice(0)) resume();
    };
    const callbackUrl = `${app.url}/api/upload`;
    const handled =
      request.url === '/api/upload-presigned' || body.presigned
        ? handleUploadPresigned({ body, request, onUploadCompleted, getSignedToken: async (pathname) => ({
            token: await blob.issueSignedToken({ pathname, operations: ['put'], ...options.token }),
            urlOptions: { callbackUrl: `${app.url}/api/upload-presigned`, tokenPayload: 'ünïque', ...options.url },
          }) })
        : handleUpload({ body, request, onUploadCompleted, onBeforeGenerateToken: async () => ({
            callbackUrl, tokenPayload: JSON.stringify({ user: 'ü "1"\n' }), ...options.token }) });
    try {
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(await handled));
    } catch (error) {
      response.writeHead(400).end(String(error));
    }
  });
  const app = { url: await listen(t, server), told, answers };
  app.told.next = async () => {
    while (told.length === 0) await new Promise((resume) => waiting.push(resume));
    return told.shift();
  };
  return app;
}

const text = async (name) => {
  const got = await blob.get(name, { access });
  return got && (await new Response(got.stream).text());
};
const code = async (response) => (await response.json()).error.code;

/// Signs as the bearer of a token may, whatever the token says of it.
function signed(token, operation, pathname, params = {}, url = `${base}/`) {
  const lines = [`operation=${operation}`, `pathname=${pathname}`];
  for (const [key, value] of Object.entries(params)) lines.push(`vercel-blob-${key}=${value}`);
  const hmac = createHmac('sha256', token.clientSigningToken).update(lines.sort().join('\n'));
  const target = new URL(url);
  if (url.startsWith(base)) target.searchParams.set('pathname', pathname);
  for (const [key, value] of Object.entries(params)) target.searchParams.set(`vercel-blob-${key}`, value);
  target.searchParams.set('vercel-blob-delegation', token.delegationToken);
  target.searchParams.set('vercel-blob-signature', hmac.digest('base64url'));
  return target.href;
}

test('upload(): the application grants it, and is told', limit, async (t) => {
  const app = await application(t, { token: { addRandomSuffix: true, allowedContentTypes: ['text/*'] } });
  const put = await upload('client/ü.txt', 'from a browser', { access, handleUploadUrl: `${app.url}/api/upload` });
  assert.match(put.pathname, /^client\/ü-[A-Za-z0-9]{30}\.txt$/);
  const told = await app.told.next();
  assert.deepEqual(told.blob, put);
  assert.deepEqual(JSON.parse(told.tokenPayload), { user: 'ü "1"\n' });

  const body = randomBytes(9 * MB).toString('latin1').slice(0, 9 * MB);
  const options = { access, handleUploadUrl: `${app.url}/api/upload`, multipart: true };
  const large = await upload('client/large.txt', new Blob([body]), options);
  assert.equal((await app.told.next()).blob.url, large.url, 'told once, when all parts are together');
  assert.equal(app.told.length, 0);
  await assert.rejects(upload('client/a.png', 'x', options), blob.BlobContentTypeNotAllowedError);
});

test('a callback is sent again until it is answered with 200', limit, async (t) => {
  const app = await application(t);
  // With the service's own pauses, all five take half a minute.
  app.answers.push(...[500, 404, 204, 302, 503].slice(0, Number(process.env.FAILED_CALLBACKS ?? 5)));
  const put = await upload('client/retried.txt', 'x', { access, handleUploadUrl: `${app.url}/api/upload` });
  assert.equal((await app.told.next()).blob.url, put.url);
  assert.equal(app.answers.length, 0);
});

test('a callback elsewhere is refused before anything is stored', limit, async (t) => {
  const here = 'http://127.0.0.1:1/api';
  for (const callbackUrl of ['https://app.example/api', 'http://169.254.169.254/', here, 'nonsense']) {
    const pathname = 'client/elsewhere.txt';
    const token = await generateClientTokenFromReadWriteToken({ pathname, onUploadCompleted: { callbackUrl } });
    await assert.rejects(clientPut(pathname, 'x', { access, token }), blob.BlobError, callbackUrl);
    await assert.rejects(blob.head(pathname), blob.BlobNotFoundError);
  }
});

test('client tokens: what their signer said holds', limit, async (t) => {
  const put = async (pathname, body, options, more) => {
    const token = await generateClientTokenFromReadWriteToken({ pathname, ...options });
    return clientPut(pathname, body, { access, token, ...more });
  };
  const first = await put('client/said.txt', '1', { cacheControlMaxAge: 120 });
  assert.equal((await blob.head(first.url)).cacheControl, 'public, max-age=120');
  const stale = { allowOverwrite: true, ifMatch: '"0"' };
  await assert.rejects(put('client/said.txt', '2', stale), blob.BlobPreconditionFailedError);
  await put('client/said.txt', '2', { allowOverwrite: true, ifMatch: first.etag });
  assert.equal(await text('client/said.txt'), '2');
  // The type is asked for once: the parts and the completion of an upload by hand do not repeat it.
  const images = { pathname: 'client/by-hand', allowedContentTypes: ['image/png'] };
  const token = await generateClientTokenFromReadWriteToken(images);
  const { createMultipartUpload, uploadPart, completeMultipartUpload } = await import('@vercel/blob/client');
  const begun = await createMultipartUpload('client/by-hand', { access, token, contentType: 'image/png' });
  const part = await uploadPart('client/by-hand', 'x', { access, token, ...begun, partNumber: 1 });
  const done = await completeMultipartUpload('client/by-hand', [part], { access, token, ...begun });
  assert.equal(done.contentType, 'image/png');
  await assert.rejects(
    completeMultipartUpload('client/by-hand', [part], { access, token, ...begun, contentType: 'text/html' }),
    blob.BlobContentTypeNotAllowedError,
  );
});

test('uploadPresigned(): in one piece and in parts, and the application is told', limit, async (t) => {
  const app = await application(t, { token: { maximumSizeInBytes: 9 * MB }, url: { allowOverwrite: true } });
  const options = { access, handleUploadUrl: `${app.url}/api/upload-presigned` };
  const put = await uploadPresigned('presigned/ü 日本.json', '{}', { ...options, contentType: 'application/json' });
  const told = await app.told.next();
  assert.deepEqual([told.blob, told.tokenPayload], [put, 'ünïque']);
  assert.equal(put.contentType, 'application/json');
  assert.equal(await text(put.url), '{}');

  const body = randomBytes(9 * MB);
  const large = await uploadPresigned('presigned/large.bin', body, { ...options, multipart: true });
  assert.equal((await blob.head(large.url)).size, 9 * MB);
  assert.equal((await app.told.next()).blob.url, large.url);
  const larger = uploadPresigned('presigned/larger.bin', randomBytes(10 * MB), { ...options, multipart: true });
  await assert.rejects(larger, blob.BlobFileTooLargeError);
});

test('signed URLs for reading', limit, async (t) => {
  const { url } = await blob.put('read/ü 日本 🦀.txt', '0123456789', { access });
  assert.equal((await fetch(url)).status, 403, 'the store is private');
  const pathname = 'read/ü 日本 🦀.txt';
  const token = await blob.issueSignedToken({ pathname, operations: ['get', 'head'] });
  const sign = async (operation, options) =>
    (await blob.presignUrl(token, { access, operation, pathname, ...options })).presignedUrl;
  const get = await sign('get');
  assert.equal(await (await fetch(get)).text(), '0123456789');
  const part = await fetch(`${get}&download=1`, { headers: { range: 'bytes=2-3' } });
  assert.deepEqual([part.status, await part.text()], [206, '23']);
  assert.match(part.headers.get('content-disposition'), /^attachment/);
  assert.equal((await fetch(await sign('get', { useCache: false }))).headers.get('cache-control'), 'no-store');
  const head = await fetch(await sign('head'), { method: 'HEAD' });
  assert.deepEqual([head.status, head.headers.get('content-length')], [200, '10']);

  await blob.put('read/other.txt', 'secret', { access });
  const elsewhere = get.replace(/^(https:..[^/]+).*\?/, '$1/read/other.txt?');
  for (const [wrong, method] of [
    [get, 'HEAD'],
    [await sign('head'), 'GET'],
    [elsewhere, 'GET'],
    [get.replace(/signature=../, 'signature=AA'), 'GET'],
    [get.replace(/&vercel-blob-signature.*/, '&vercel-blob-signature='), 'GET'],
    [get.replace(/vercel-blob-delegation=[^&]*/, 'vercel-blob-delegation=e30.AA'), 'GET'],
    [`${get}&vercel-blob-valid-until=99999999999999`, 'GET'],
    [signed(token, 'get', 'read/other.txt', {}, url.replace(/read.*/, 'read/other.txt')), 'GET'],
  ]) {
    const reply = await fetch(wrong, { method });
    assert.notEqual(reply.status, 200, `${method} ${wrong}`);
    assert.ok([400, 403].includes(reply.status), String(reply.status));
  }
  const expired = await fetch(signed(token, 'get', pathname, { 'valid-until': 1 }, url));
  assert.equal((await expired.json()).error.message, 'Token expired');
  const any = await blob.issueSignedToken({});
  const other = await blob.presignUrl(any, { access, operation: 'get', pathname: 'read/other.txt' });
  assert.equal(await (await fetch(other.presignedUrl)).text(), 'secret', 'by default, any pathname may be read');
});

test('signed URLs for writing', limit, async (t) => {
  const pathname = 'write/a.png';
  const operations = ['put'];
  const limits = { maximumSizeInBytes: 10, allowedContentTypes: ['image/*'] };
  const token = await blob.issueSignedToken({ pathname, operations, ...limits });
  const sign = async (options) =>
    (await blob.presignUrl(token, { access, operation: 'put', pathname, ...options })).presignedUrl;
  const put = (url, body = '0123456789', type = 'image/png') =>
    fetch(url, { method: 'PUT', body, headers: { 'content-type': type } });
  const stored = await (await put(await sign({ cacheControlMaxAge: 120 }))).json();
  assert.deepEqual([stored.pathname, stored.contentType], [pathname, 'image/png']);
  assert.equal((await blob.head(pathname)).cacheControl, 'public, max-age=120');
  assert.match((await (await put(await sign())).json()).error.message, /already exists/);
  const overwrite = { allowOverwrite: true };
  assert.equal((await put(await sign({ ...overwrite, ifMatch: '"0"' }))).status, 412);
  assert.equal((await put(await sign({ ...overwrite, ifMatch: stored.etag }), 'x')).status, 200);
  const suffixed = await (await put(await sign({ addRandomSuffix: true }))).json();
  assert.match(suffixed.pathname, /^write\/a-[A-Za-z0-9]{30}\.png$/);

  // The limits of the token hold, whatever its bearer signs; those of the URL too.
  const message = async (reply) => (await (await reply).json()).error.message;
  const large = 'x'.repeat(11);
  assert.match(await message(put(await sign(overwrite), large)), /file length cannot be greater than 10/);
  const more = signed(token, 'put', pathname, { 'maximum-size-in-bytes': 100, 'allow-overwrite': 'true' });
  assert.match(await message(put(more, large)), /file length cannot be greater than 10/);
  const less = await sign({ ...overwrite, maximumSizeInBytes: 5 });
  assert.match(await message(put(less)), /file length cannot be greater than 5/);
  const gif = await sign({ ...overwrite, allowedContentTypes: ['image/gif'] });
  assert.match(await message(put(gif)), /"contentType" image\/png is not allowed/);
  assert.match(await message(put(await sign(overwrite), 'x', 'text/html')), /"contentType" text\/html is not/);
  const html = signed(token, 'put', pathname, { 'allowed-content-types': 'text/html', 'allow-overwrite': 'true' });
  assert.match(await message(put(html, 'x', 'text/html')), /is not allowed/);

  // Nor is a URL good for anything else.
  assert.match(await message(put(signed(token, 'put', 'write/b.png'))), /"pathname" does not match/);
  assert.equal((await fetch(signed(token, 'delete', pathname), { method: 'DELETE' })).status, 403);
  assert.equal((await fetch(await sign(), { method: 'DELETE' })).status, 403);
  const list = new URL(await sign());
  list.searchParams.delete('pathname');
  assert.equal((await fetch(list)).status, 403);
  const copy = `${await sign(overwrite)}&fromUrl=read%2Fother.txt`;
  assert.equal(await code(await fetch(copy, { method: 'PUT' })), 'forbidden');
  assert.equal((await blob.head(pathname)).size, 1);
});

test('signed values with control characters are refused', limit, async (t) => {
  const token = await blob.issueSignedToken({ operations: ['put'] });
  const put = async (url) => (await fetch(url, { method: 'PUT', body: 'xx', duplex: 'half' })).json();
  // One value that reads like two once it is signed: the limit would be gone.
  const limited = new URL(signed(token, 'put', 'split/a.txt', { 'maximum-size-in-bytes': 1 }));
  assert.match((await put(limited)).error.message, /file length cannot be greater than 1/);
  limited.searchParams.set('pathname', 'split/a.txt\nvercel-blob-maximum-size-in-bytes=1');
  limited.searchParams.delete('vercel-blob-maximum-size-in-bytes');
  assert.match((await put(limited)).error.message, /control characters/);
  for (const [pathname, params] of [
    ['split/a\u0085b', {}],
    ['split/a', { 'callback-token-payload': 'a\nb' }],
    ['split/a', { 'callback-url': `${base}\rb` }],
    ['split/a', { 'if-match': '"a"\n' }],
    ['split/a', { 'allowed-content-types': 'text/plain,\ttext/html' }],
  ]) {
    assert.match((await put(signed(token, 'put', pathname, params))).error.message, /control characters/);
  }
  await assert.rejects(blob.issueSignedToken({ pathname: 'split/a\nb' }), /control characters/);
  for (const options of [{ pathname: 'split/a\nb' }, { pathname: 'split/a', allowedContentTypes: ['a\n'] }]) {
    const token = await generateClientTokenFromReadWriteToken(options);
    await assert.rejects(clientPut(options.pathname, 'x', { access, token }), /control characters/);
  }
  assert.deepEqual((await blob.list({ prefix: 'split/' })).blobs, []);
});

test('signed URLs for deleting', limit, async (t) => {
  const { pathname, etag } = await blob.put('delete/a.txt', 'x', { access });
  const token = await blob.issueSignedToken({ pathname, operations: ['delete'] });
  const remove = async (options) => {
    const { presignedUrl } = await blob.presignUrl(token, { access, operation: 'delete', pathname, ...options });
    return fetch(presignedUrl, { method: 'DELETE' });
  };
  assert.equal(await code(await remove({ ifMatch: '"0"' })), 'precondition_failed');
  const deleted = await remove({ ifMatch: etag });
  assert.deepEqual([deleted.status, await deleted.json()], [200, null]);
  await assert.rejects(blob.head(pathname), blob.BlobNotFoundError);
});

test('signed tokens have an end, and come from the owner alone', limit, async (t) => {
  const day = 24 * 3600 * 1000;
  const validUntil = Date.now() + 6 * day;
  assert.equal((await blob.issueSignedToken({ validUntil })).validUntil, validUntil);
  const hour = (await blob.issueSignedToken({})).validUntil - Date.now();
  assert.ok(Math.abs(hour - 3_600_000) < 60_000, String(hour));
  await assert.rejects(blob.issueSignedToken({ validUntil: Date.now() + 8 * day }), /at most 7 days/);
  await assert.rejects(blob.issueSignedToken({ operations: ['list'] }), blob.BlobError);
  const token = await generateClientTokenFromReadWriteToken({ pathname: 'a' });
  await assert.rejects(blob.issueSignedToken({ token }), /not available when using a client token/);
});

test('putFromUrl() keeps the image as it is', limit, async (t) => {
  const png = randomBytes(1000);
  const server = createServer((request, response) => {
    if (request.url === '/moved') return response.writeHead(302, { location: '/a.png' }).end();
    if (request.url === '/absent') return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': request.url === '/a.html' ? 'text/html' : 'image/png' }).end(png);
  });
  const origin = (await listen(t, server)).replace('127.0.0.1', 'localhost');
  const options = { access, optimizeImage: { width: 64, quality: 75 } };
  const at = (path) => `${origin}${path}`;
  const put = await blob.putFromUrl('image/a', at('/a.png'), options);
  assert.equal(put.contentType, 'image/png');
  const got = await blob.get(put.url, { access });
  assert.deepEqual(Buffer.from(await new Response(got.stream).arrayBuffer()), png);
  await blob.putImage('image/b', new URL(at('/a.png')), options);
  for (const path of ['/moved', '/absent', '/a.html']) {
    await assert.rejects(blob.putFromUrl('image/c', at(path), options), blob.BlobError, path);
  }
  await assert.rejects(blob.putImage('image/c', png, options), blob.BlobUnknownError);
  await assert.rejects(blob.head('image/c'), blob.BlobNotFoundError);
});
