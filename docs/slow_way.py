"""The way to a store that is far away: a proxy in a process of its own, by which each request takes longer; and that, on
demand, ends the connection of every 150th request where its reply begins: what was asked is done, and nobody is told."""

import asyncio
import multiprocessing
import socket

LOST_EVERY = 150


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Way(multiprocessing.Process):
    def __init__(self, to, seconds):
        super().__init__(daemon=True)
        self.to, self.seconds = to, seconds
        self.port = free_port()
        self.losing = multiprocessing.Value("b", False)
        self.lost = multiprocessing.Value("i", 0)
        self.replies = 0

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        server = await asyncio.start_server(self.connection, "127.0.0.1", self.port, backlog=4096)
        async with server:
            await server.serve_forever()

    async def connection(self, reader, writer):
        asked = asyncio.Event()
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self.to)
        tasks = [self.requests(reader, store_writer, asked), self.reply_bytes(store_reader, writer, asked)]
        tasks = [asyncio.create_task(task) for task in tasks]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (writer, store_writer):
            end.close()

    async def requests(self, reader, store, asked):
        """What comes is passed on when its time is over, in order."""
        waiting = asyncio.Queue()
        clock = asyncio.get_running_loop().time

        async def read():
            while data := await reader.read(1 << 16):
                await waiting.put((clock() + self.seconds, data))
            await waiting.put((0, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                at, data = await waiting.get()
                if not data:
                    return
                await asyncio.sleep(max(0, at - clock()))
                asked.set()
                store.write(data)
                await store.drain()
        finally:
            reading.cancel()

    async def reply_bytes(self, store, writer, asked):
        while data := await store.read(1 << 16):
            if asked.is_set():
                asked.clear()
                self.replies += 1
                if self.losing.value and self.replies % LOST_EVERY == 0:
                    self.lost.value += 1
                    return
            writer.write(data)
            await writer.drain()
