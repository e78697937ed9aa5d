"""An NBD server in the test's own process.  When a flush fails it drops what was written since the last good one, and goes on.

`fail_at`: the number of the flush that fails, of those from the beginning on.  `hold(data)`: whether a write is to wait for
release(), neither carried out nor answered until then.
"""
import socket
import struct
import threading

EIO, EINVAL = 5, 22
READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
FLAGS = 1 | 4 | 8 | 32 | 64          # there are some; flush, FUA, trim, zeroes
OPTIONS, REPLY = 0x49484156454F5054, 0x3e889045565a9
ACKNOWLEDGED, INFO, UNSUPPORTED = 1, 3, 1 << 31 | 1
EXPORT_NAME, ABORT, GET_INFO, GO = 1, 2, 6, 7
PAGE = 512


class LosingServer:
    def __init__(self, path, content, size):
        self.content = bytearray(content) + bytearray(size - len(content))
        self.flushes, self.fail_at, self.failed = 0, None, 0
        self.hold, self.held = None, 0
        self._released = threading.Event()
        self._unflushed = {}                     # what pages were at the last good flush
        self._lock = threading.RLock()
        self._answering = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.release()
        self._socket.close()

    def fail_next(self):
        self.fail_at = self.flushes

    def release(self):
        self.hold = None
        self._released.set()

    def save(self, path):
        with self._lock, open(path, "wb") as file:
            file.write(self.content)

    def _accept(self):
        try:
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()
        except OSError:
            pass

    def _serve(self, client):
        with client:
            try:
                if self._shake_hands(client):
                    while self._request(client):
                        pass
            except OSError:
                pass

    @staticmethod
    def _receive(client, length):
        data = b""
        while len(data) < length:
            more = client.recv(length - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def _shake_hands(self, client):
        client.sendall(b"NBDMAGIC" + struct.pack(">QH", OPTIONS, 3))
        self._receive(client, 4)
        while True:
            _, option, length = struct.unpack(">QII", self._receive(client, 16))
            self._receive(client, length)
            answers = [(UNSUPPORTED, b"")]
            if option == EXPORT_NAME:
                client.sendall(struct.pack(">QH", len(self.content), FLAGS))
                return True
            if option in (GET_INFO, GO):
                answers = [(INFO, struct.pack(">HQH", 0, len(self.content), FLAGS)), (ACKNOWLEDGED, b"")]
            for kind, data in answers:
                client.sendall(struct.pack(">QIII", REPLY, option, kind, len(data)) + data)
            if option in (GO, ABORT):
                return option == GO

    def _request(self, client):
        _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", self._receive(client, 28))
        data = self._receive(client, length) if kind == WRITE else b"\0" * length if kind == ZEROES else b""
        if kind == DISCONNECT:
            return False
        hold = self.hold
        if kind == WRITE and hold and hold(data):
            self.held += 1
            threading.Thread(target=self._later, args=(client, handle, offset, data), daemon=True).start()
            return True
        with self._lock:
            error = EINVAL if kind not in (READ, WRITE, FLUSH, TRIM, ZEROES) else 0
            read = bytes(self.content[offset:offset + length]) if kind == READ else b""
            if data:
                self._put(offset, data)
            if kind == FLUSH or flags & FUA:
                error = self._flush()
        self._answer(client, handle, error, read)
        return True

    def _later(self, client, handle, offset, data):
        self._released.wait()
        with self._lock:
            self._put(offset, data)
        try:
            self._answer(client, handle, 0, b"")
        except OSError:
            pass

    def _answer(self, client, handle, error, data):
        with self._answering:
            client.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + data)

    def _put(self, offset, data):
        for page in range(offset // PAGE, (offset + len(data) + PAGE - 1) // PAGE):
            self._unflushed.setdefault(page, bytes(self.content[page * PAGE:(page + 1) * PAGE]))
        self.content[offset:offset + len(data)] = data

    def _flush(self):
        fails = self.flushes == self.fail_at
        self.flushes += 1
        if fails:
            self.failed += 1
            for page, data in self._unflushed.items():
                self.content[page * PAGE:(page + 1) * PAGE] = data
        self._unflushed = {}
        return EIO if fails else 0
