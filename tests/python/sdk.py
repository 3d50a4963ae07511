"""The whole surface of vercel-blob, blocking and asynchronous, on an empty store.

From the environment: the SDK's own variables, and ACCESS (public or private).
"""

import asyncio
import hashlib
import os
import unittest
from datetime import datetime, timezone

from vercel import blob
from vercel.api import session
from vercel.blob import sync

ACCESS = os.environ["ACCESS"]
HOST = f"https://python.{ACCESS}.blob.vercel-storage.com"
MB = 1024 * 1024


def etag_of(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def put(pathname, body=b"x", **options):
    return sync.put_blob(pathname, body, access=ACCESS, **options)


def read(name):
    return sync.get_blob(name, access=ACCESS)


def names(blobs):
    return [entry.pathname for entry in blobs]


class Surface(unittest.TestCase):
    def test_put_head_get_and_query_agree(self):
        stored = put("basics/hello.txt", b"hello")
        self.assertEqual(stored.url, f"{HOST}/basics/hello.txt")
        self.assertEqual(stored.download_url, f"{HOST}/basics/hello.txt?download=1")
        self.assertEqual((stored.pathname, stored.content_type), ("basics/hello.txt", "text/plain"))
        self.assertEqual(stored.content_disposition, 'inline; filename="hello.txt"')
        self.assertEqual(stored.etag, etag_of(b"hello"))
        for name in (stored.url, stored.pathname):
            head = sync.head_blob(name)
            self.assertEqual((head.size, head.etag), (5, stored.etag))
            self.assertEqual(head.cache_control, "public, max-age=2592000")
            self.assertLess(abs((head.uploaded_at - datetime.now(timezone.utc)).total_seconds()), 60)
            got = read(name)
            self.assertEqual((got.body, got.metadata.etag, got.metadata.size), (b"hello", stored.etag, 5))
            self.assertEqual(got.metadata.content_type, "text/plain")
            self.assertEqual(got.metadata.last_modified, head.uploaded_at.replace(microsecond=0))
        [listed] = sync.query_blobs(prefix="basics/")
        self.assertEqual((listed.url, listed.size, listed.etag), (stored.url, 5, stored.etag))

    def test_bodies_and_options(self):
        body = os.urandom(300_000)
        pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
        for name, source in (("bytes", body), ("view", memoryview(body)), ("pieces", pieces)):
            stored = put(f"bodies/{name}.bin", source, content_length=len(body))
            self.assertEqual(read(stored.url).body, body, name)
        with self.assertRaises(blob.BlobContentLengthError):
            put("bodies/short.bin", iter([b"too long"]), content_length=3)
        stored = put("table.old.csv", b"a", content_type="text/x", add_random_suffix=True, cache_control_max_age=120)
        self.assertRegex(stored.pathname, r"^table\.old-[A-Za-z0-9]{30}\.csv$")
        self.assertEqual(stored.content_type, "text/x")
        self.assertEqual(sync.head_blob(stored.url).cache_control, "public, max-age=120")

    def test_odd_names(self):
        for name in ("odd/a b+c.json", "odd/ünï/日本 🦀.json", "odd/a#b?c.json", "odd/100%25.txt", "odd/it's (1)!"):
            stored = put(name, name.encode())
            self.assertEqual(stored.pathname, name)
            for named in (stored.url, name):
                self.assertEqual(sync.head_blob(named).pathname, name)
                self.assertEqual(read(named).body, name.encode())

    def test_a_taken_name(self):
        put("taken.txt")
        with self.assertRaisesRegex(blob.BlobError, "This blob already exists"):
            put("taken.txt")
        put("taken.txt", b"2", allow_overwrite=True)
        self.assertEqual(sync.head_blob("taken.txt").etag, etag_of(b"2"))

    def test_absence_and_the_other_access(self):
        for call in (lambda: sync.head_blob("absent"), lambda: read("absent")):
            with self.assertRaises(blob.BlobNotFoundError):
                call()
        other = "private" if ACCESS == "public" else "public"
        with self.assertRaisesRegex(blob.BlobError, f"Cannot use {other} access"):
            sync.put_blob("other.txt", b"x", access=other)

    def test_queries(self):
        wanted = [f"pages/{number:03}.json" for number in range(25)]
        for name in reversed(wanted):
            put(name)
        self.assertEqual(names(sync.query_blobs(prefix="pages/", page_size=10)), wanted)
        for name in ("folders/a", "folders/b/1", "folders/b/2", "folders/c/d/3"):
            put(name)
        entries = list(sync.query_blob_entries(prefix="folders/", page_size=2))
        folders = [entry.prefix for entry in entries if isinstance(entry, blob.BlobPrefix)]
        self.assertEqual(folders, ["folders/b/", "folders/c/"])
        self.assertEqual(names(entry for entry in entries if isinstance(entry, blob.ListBlob)), ["folders/a"])
        with self.assertRaises(blob.BlobError):
            list(sync.query_blobs(cursor="nonsense"))

    def test_copy(self):
        source = put("copy/source.json", b"{}", content_type="text/csv")
        for named in (source.url, source.pathname):
            copy = sync.copy_blob(named, "copy/to.txt", access=ACCESS, allow_overwrite=True, if_match=source.etag)
            self.assertEqual((copy.pathname, copy.content_type, copy.etag), ("copy/to.txt", "text/plain", source.etag))
        with self.assertRaisesRegex(blob.BlobError, "already exists"):
            sync.copy_blob(source.url, "copy/to.txt", access=ACCESS)
        with self.assertRaises(blob.BlobPreconditionFailedError):
            sync.copy_blob(source.url, "copy/x", access=ACCESS, if_match=etag_of(b"other"))
        with self.assertRaises(blob.BlobNotFoundError):
            sync.copy_blob("copy/absent", "copy/x", access=ACCESS)

    def test_delete(self):
        a, b, c, d = (put(f"delete/{name}") for name in ("a", "b", "c d#?", "d"))
        sync.delete_blob(a.url)
        sync.delete_blob([b.url, c.pathname, "delete/absent"])
        self.assertEqual(names(sync.query_blobs(prefix="delete/")), ["delete/d"])
        with self.assertRaises(blob.BlobPreconditionFailedError):
            sync.delete_blob(d.url, if_match=etag_of(b"other"))
        sync.delete_blob(d.url, if_match=d.etag)
        self.assertEqual(names(sync.query_blobs(prefix="delete/")), [])

    def test_multipart(self):
        parts = [os.urandom(5 * MB), os.urandom(6 * MB), b"the end"]
        with sync.multipart_upload_blob("multipart/ü.bin", access=ACCESS, content_type="image/x-big") as upload:
            for part in parts:
                upload.upload_part(part)
        self.assertEqual((upload.result.pathname, upload.result.content_type), ("multipart/ü.bin", "image/x-big"))
        self.assertRegex(upload.result.etag, r'^"[0-9a-f]{32}-3"$')
        with sync.stream_blob(upload.result.url, access=ACCESS) as download:
            self.assertEqual(b"".join(download), b"".join(parts))
        with self.assertRaisesRegex(blob.BlobError, "already exists"):
            with sync.multipart_upload_blob("multipart/ü.bin", access=ACCESS) as upload:
                upload.upload_part(b"again")

    def test_wrong_credentials(self):
        def wrong():
            return blob.BlobCredentials("vercel_blob_rw_PyThon_wrong", "PyThon")

        with session(service_options=[sync.SyncBlobServiceOptions(credentials_factory=wrong)]):
            with self.assertRaises(blob.BlobAccessError):
                put("denied.txt")
            with self.assertRaises(blob.BlobAccessError):
                list(sync.query_blobs())


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_all_of_it(self):
        async with session():
            stored = await blob.put_blob("async/a.txt", b"hello", access=ACCESS)
            self.assertEqual((await blob.head_blob(stored.url)).etag, etag_of(b"hello"))
            self.assertEqual((await blob.get_blob(stored.url, access=ACCESS)).body, b"hello")
            async with blob.multipart_upload_blob("async/b.bin", access=ACCESS) as upload:
                await upload.upload_part(b"b" * (5 * MB))
                await upload.upload_part(b"the end")
            async with blob.stream_blob(upload.result.pathname, access=ACCESS) as download:
                self.assertEqual(sum([len(chunk) async for chunk in download]), 5 * MB + 7)
            await blob.copy_blob("async/a.txt", "async/c.txt", access=ACCESS)
            calls = [blob.put_blob(f"async/many/{number}", b"x", access=ACCESS) for number in range(20)]
            await asyncio.gather(*calls)
            found = [entry async for entry in blob.query_blob_entries(prefix="async/", page_size=2)]
            self.assertEqual(len(found), 4)
            await blob.delete_blob(["async/a.txt", "async/b.bin", "async/c.txt"])
            left = [entry.pathname async for entry in blob.query_blobs(prefix="async/", page_size=7)]
            self.assertEqual(len(left), 20)


if __name__ == "__main__":
    unittest.main()
