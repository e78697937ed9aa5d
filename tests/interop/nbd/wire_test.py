"""The NBD server at the wire: extended headers, which no client in Debian 12 speaks, and clients that misbehave."""
import random
import socket
import struct
import time
import unittest

from peer import LIMIT, MIB, ServerTest

OPTION_MAGIC = 0x49484156454F5054
REPLY_MAGIC = 0x0003E889045565A9
EXTENDED_REQUEST, EXTENDED_REPLY = 0x21E41C71, 0x6E8A278C
ACK, INFO, CONTEXT = 1, 3, 4
GO, SET_CONTEXT, EXTENDED_HEADERS = 7, 10, 11
READ, WRITE, DISCONNECT, FLUSH, ZEROES, STATUS = 0, 1, 2, 3, 6, 7
FUA, PAYLOAD = 1, 32
NONE, DATA, HOLE, STATUS_EXT, ERROR = 0, 1, 2, 6, 0x8001


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(str(path))

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def closed(self):
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def greet(self):
        magic, style, flags = struct.unpack(">QQH", self.receive(18))
        assert (magic, style, flags) == (0x4E42444D41474943, OPTION_MAGIC, 3)
        self.send(struct.pack(">I", 3))

    def option(self, option, data=b""):
        """All replies: (type, data)."""
        self.send(struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data)
        replies = []
        while not replies or (replies[-1][0] != ACK and replies[-1][0] < 1 << 31):
            magic, answered, kind, size = struct.unpack(">QIII", self.receive(20))
            assert (magic, answered) == (REPLY_MAGIC, option)
            replies.append((kind, self.receive(size)))
        return replies

    def extended(self, contexts=()):
        self.greet()
        assert self.option(EXTENDED_HEADERS) == [(ACK, b"")]
        if contexts:
            queries = b"".join(struct.pack(">I", len(c)) + c for c in contexts)
            self.option(SET_CONTEXT, struct.pack(">II", 0, len(contexts)) + queries)
        replies = self.option(GO, struct.pack(">IH", 0, 0))
        assert replies[-1] == (ACK, b"")
        return struct.unpack(">HQH", replies[0][1])[2]

    def request(self, command, offset=0, length=0, flags=0, payload=b"", cookie=0):
        self.send(struct.pack(">IHHQQQ", EXTENDED_REQUEST, flags, command, cookie, offset, length) + payload)

    def chunk(self):
        """(done, type, cookie, offset, payload)"""
        magic, flags, kind, cookie, offset, size = struct.unpack(">IHHQQQ", self.receive(32))
        assert magic == EXTENDED_REPLY, hex(magic)
        return flags & 1, kind, cookie, offset, self.receive(size)

    def call(self, command, offset=0, length=0, flags=0, payload=b""):
        self.request(command, offset, length, flags, payload, cookie=99)
        done, kind, cookie, echoed, data = self.chunk()
        assert (done, cookie, echoed) == (1, 99, offset)
        return kind, data


class Wire(ServerTest):
    def client(self):
        return Client(self.path / "disk.sock")


class ExtendedHeaders(Wire):
    def test_a_session(self):
        disk = self.make_disk()
        self.serve(disk)
        client = self.client()
        self.assertEqual(client.extended(), 0x0DED)
        content = b"e" * 70000
        self.assertEqual(client.call(WRITE, 5 * MIB, len(content), PAYLOAD | FUA, content), (NONE, b""))
        self.assertEqual(client.call(READ, 5 * MIB, len(content)),
                         (DATA, struct.pack(">Q", 5 * MIB) + content))
        self.assertEqual(client.call(READ, 8 * MIB, 4096), (HOLE, struct.pack(">QI", 8 * MIB, 4096)))
        self.assertEqual(client.call(ZEROES, 0, 16 * MIB), (NONE, b""))
        self.assertEqual(client.call(FLUSH), (NONE, b""))
        kind, data = client.call(READ, 16 * MIB, 1)
        self.assertEqual((kind, struct.unpack(">I", data[:4])[0]), (ERROR, 22))
        kind, data = client.call(ZEROES, 0, 1 << 40)
        self.assertEqual((kind, struct.unpack(">I", data[:4])[0]), (ERROR, 28))
        client.request(DISCONNECT)
        self.assertTrue(client.closed())
        self.assertEqual(disk.read_bytes(), bytes(16 * MIB))

    def test_block_status(self):
        self.serve(self.make_disk(), f"--dirty=b:{MIB}:65536")
        client = self.client()
        self.assertEqual(client.extended([b"base:allocation", b"qemu:dirty-bitmap:b"]), 0x1DED)
        client.request(STATUS, 0, 4 * MIB, cookie=5)
        answers = [client.chunk(), client.chunk()]
        self.assertEqual([a[:4] for a in answers], [(0, STATUS_EXT, 5, 0), (1, STATUS_EXT, 5, 0)])
        allocation, dirty = (a[4] for a in answers)
        self.assertEqual(struct.unpack(">II8Q", allocation)[1:],
                         (4, MIB, 0, 2 * MIB, 3, 65536, 0, MIB - 65536, 3))
        self.assertEqual(struct.unpack(">II6Q", dirty)[1:], (3, MIB, 0, 65536, 1, 3 * MIB - 65536, 0))
        wanted = struct.unpack(">I", dirty[:4])[0]
        payload = struct.pack(">QI", 2 * MIB, wanted)
        kind, data = client.call(STATUS, MIB, len(payload), PAYLOAD, payload)
        self.assertEqual(struct.unpack(">II4Q", data), (wanted, 2, 65536, 1, 2 * MIB - 65536, 0))


class Misbehaviour(Wire):
    def works(self):
        client = self.client()
        client.extended()
        self.assertEqual(client.call(READ, 0, 512)[0], DATA)

    def test_garbage_at_every_stage(self):
        self.serve(self.make_disk())
        source = random.Random(3)
        for round in range(60):
            client = self.client()
            try:
                if round % 3 > 0:
                    client.greet()
                if round % 3 > 1:
                    client.option(EXTENDED_HEADERS)
                    client.option(GO, struct.pack(">IH", 0, 0))
                client.send(source.randbytes(source.randrange(1, 5000)))
                client.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass                     # it is done with us already
            self.assertTrue(client.closed())
        self.works()

    def test_options_cut_short(self):
        self.serve(self.make_disk())
        message = struct.pack(">QIII", OPTION_MAGIC, GO, 6, 0) + b"\0\0"
        for cut in range(len(message)):
            client = self.client()
            client.greet()
            client.send(message[:cut])
            client.socket.shutdown(socket.SHUT_WR)
            self.assertTrue(client.closed())
        self.works()

    def test_mutated_requests(self):
        """Requests with flipped bits, none of them a write: answered or the end, never harm."""
        disk = self.make_disk()
        before = disk.read_bytes()
        self.serve(disk, "--read-only")
        source = random.Random(5)
        for _ in range(60):
            client = self.client()
            client.extended([b"base:allocation"])
            batch = b""
            for cookie in range(50):
                request = bytearray(struct.pack(">IHHQQQ", EXTENDED_REQUEST, 0, source.choice((READ, STATUS, FLUSH)),
                                                cookie, source.randrange(16 * MIB), source.randrange(1 << 16)))
                if source.random() < 0.2:
                    request[source.randrange(4, 32)] ^= 1 << source.randrange(8)
                batch += request
            try:
                client.send(batch)
                client.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            self.assertTrue(client.closed())
        self.works()
        self.assertEqual(disk.read_bytes(), before)

    def test_silent_and_slow_clients_hold_up_nobody(self):
        self.serve(self.make_disk(data=((0, 16 * MIB),)))
        silent = [self.client() for _ in range(20)]
        deaf = []
        for _ in range(10):
            client = self.client()
            client.extended()
            client.socket.setblocking(False)
            try:
                for cookie in range(100):
                    client.request(READ, 0, MIB, cookie=cookie)
            except BlockingIOError:
                pass                     # the server stopped reading: as it should
            deaf.append(client)
        began = time.monotonic()
        for _ in range(20):
            self.works()
        self.assertLess(time.monotonic() - began, LIMIT)
        for client in silent + deaf:
            client.socket.close()
        self.works()

    def test_memory_is_bound(self):
        self.serve(self.make_disk(data=((0, 16 * MIB),)))

        def resident():
            with open(f"/proc/{self.server.pid}/status", encoding="ascii") as status:
                return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
        before = resident()
        deaf = []
        for _ in range(4):
            client = self.client()
            client.extended()
            client.socket.setblocking(False)
            try:
                for cookie in range(1000):
                    client.request(READ, 0, 8 * MIB, cookie=cookie)
            except BlockingIOError:
                pass
            deaf.append(client)
        self.works()
        self.works()
        self.assertLess(resident() - before, 4 * 40 * MIB)
        for client in deaf:
            client.socket.close()


if __name__ == "__main__":
    unittest.main()
