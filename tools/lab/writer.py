"""Writer: a guest that writes to a disk over NBD without pause, and a log of what it wrote when.

Unit is the block of 4 KiB.  Two requests in flight never touch the same block, so the contents of each block have
an order: its versions.  A version's content follows from the block and its number in the log; what the
log holds beside that is when the request was begun and when its answer was there, by one monotonic clock.

When the server dies a patient writer waits for the next one and sends again what was not answered, as a guest does.
Such a write is under way from its first sending to its answer.
"""
import errno
import hashlib
import random
import struct
import threading
import time

import nbd

BLOCK = 4096
ZEROES = bytes(BLOCK)
_HEAD = struct.Struct("<8sQQ8x")
_MAGIC = b"version\0"


def content(block, number):
    """4 KiB that only version `number` of this block holds."""
    head = _HEAD.pack(_MAGIC, block, number)
    return head + hashlib.shake_128(head).digest(BLOCK - len(head))


class Write:
    """One request: `data` is None for generated content, else the bytes of each block."""
    __slots__ = ("number", "first", "count", "data", "begun", "done", "again")

    def __init__(self, number, first, count, data):
        self.number, self.first, self.count, self.data = number, first, count, data
        self.begun = self.done = None
        self.again = False                       # sent more than once

    def block(self, block):
        if self.data is None:
            return content(block, self.number)
        return self.data[block - self.first]


class Push:
    """Blocks that are to be written besides the random ones, at the pace of one request a `gap`."""

    def __init__(self, blocks, gap):
        self.waiting = sorted(blocks.items(), reverse=True)
        self.gap, self.next_at = gap, 0.0
        self.writes = []
        self.over = threading.Event()


class Writer(threading.Thread):
    """Writes random runs of `blocks` over `uri`; `rate` requests a second, `depth` in flight.

    A server that has gone is waited for, `patience` seconds; 0: the writer ends with it.
    """

    def __init__(self, uri, blocks, rate=1500, depth=16, seed=1, patience=0):
        super().__init__(daemon=True)
        self.log = []
        self.error = None
        self._uri, self._blocks, self._rate, self._depth = uri, blocks, rate, depth
        self._member = frozenset(blocks)
        self._random = random.Random(seed)
        self._busy, self._zeroed, self._in_flight = set(), set(), 0
        self._disk, self._open = None, {}        # what is not answered, by number
        self._hot = range(len(blocks))
        self._patience = patience
        self._push = None
        self._ending = self._hold = False
        self._held = threading.Event()

    # For the thread that started it:

    def set_hot(self, share, random):
        """From now on nearly all writes go into a part of the region, `share` of it, chosen by `random`."""
        size = max(1, int(len(self._blocks) * share))
        first = random.randrange(len(self._blocks) - size + 1)
        self._hot = range(first, first + size)

    def push(self, blocks, gap=0.0):
        """Writes {block: bytes} too, in order, none begun before the one before it is done."""
        self._push = push = Push(blocks, gap)
        return push

    def hold(self):
        """Stops for a while: returns when nothing is in flight."""
        self._held.clear()
        self._hold = True
        self._wait(self._held)

    def go_on(self):
        self._hold = False

    def finish(self):
        self._ending = True
        self.join()
        self.check()

    def wait(self, push):
        self._wait(push.over)

    def _wait(self, event):
        while not event.wait(0.1):
            self.check()
            if not self.is_alive():
                raise RuntimeError("the writer has ended")

    def check(self):
        if self.error:
            raise self.error

    # The thread:

    def run(self):
        try:
            self._write_on()
        except Exception as error:          # told by check() to whoever waits
            self.error = error

    def _write_on(self):
        self._connect()
        self._next_at = time.monotonic()
        while not self._ending:
            try:
                self._go_on()
            except nbd.Error:
                if not self._patience:
                    raise
                self._connect()
        self._drain()
        self._disk.shutdown()

    def _go_on(self):
        if self._hold:
            self._drain()
            self._held.set()
            time.sleep(0.005)
            self._next_at = time.monotonic()
            return
        self._push_one()
        now = time.monotonic()
        if now < self._next_at:
            left = self._next_at - now
            self._disk.poll(max(1, int(left * 1000))) if self._in_flight else time.sleep(left)
            return
        self._next_at = max(self._next_at + 1 / self._rate, now - 0.1)
        self._write_some()
        while self._in_flight >= self._depth:
            self._disk.poll(-1)

    def _connect(self):
        """To the server, or the one that comes in its place; goes on with what is not answered."""
        end = time.monotonic() + self._patience
        while True:
            self._disk = nbd.NBD()
            try:
                self._disk.connect_uri(self._uri)
                break
            except nbd.Error:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self._in_flight = 0
        for write in list(self._open.values()):
            write.again = True
            self._send(write)

    def _drain(self):
        while self._in_flight:
            self._disk.poll(-1)

    def _push_one(self):
        push = self._push
        if push is None or (push.writes and push.writes[-1].done is None):
            return
        if not push.waiting:
            self._push = None
            push.over.set()
        elif time.monotonic() >= push.next_at:
            block, data = push.waiting.pop()
            push.next_at = time.monotonic() + push.gap
            push.writes.append(self._submit(block, [data]))

    def _write_some(self):
        where = self._hot if self._random.random() < 0.998 else range(len(self._blocks))
        first = self._blocks[self._random.choice(where)]
        zero = self._random.random() < 0.02
        # Zeroes are also written in runs that cover whole granules of a bitmap.
        run = self._free_run(first, self._random.choice((1, 8, 32, 64) if zero else (1, 1, 1, 2, 4, 8)))
        # A block is zeroed at most once, so that zeroes are one version.
        if zero and self._zeroed.isdisjoint(run) and run:
            self._zeroed.update(run)
            self._submit(first, [ZEROES] * len(run))
        elif run:
            self._submit(first, None, min(len(run), 8))

    def _free_run(self, first, count):
        for end in range(first, first + count):
            if end not in self._member or end in self._busy:
                return range(first, end)
        return range(first, first + count)

    def _submit(self, first, data, count=None):
        write = Write(len(self.log) + 1, first, count or len(data), data)
        self._busy.update(range(first, first + write.count))
        self._open[write.number] = write
        write.begun = time.monotonic()
        self.log.append(write)
        self._send(write)
        return write

    def _send(self, write):
        run = range(write.first, write.first + write.count)
        zero = write.data is not None and all(block is ZEROES for block in write.data)
        contents = b"" if zero else b"".join(write.block(block) for block in run)
        self._in_flight += 1

        def completed(error):
            if error.value == errno.ENOTCONN:    # the server is gone: _connect() sends it again
                return 1
            write.done = time.monotonic()
            self._in_flight -= 1
            self._busy.difference_update(run)
            del self._open[write.number]
            if error.value:
                self.error = OSError(error.value, f"the disk refused a write of block {write.first}")
            return 1

        try:
            if zero:
                self._disk.aio_zero(write.count * BLOCK, write.first * BLOCK, completed)
            else:
                self._disk.aio_pwrite(contents, write.first * BLOCK, completed)
        except nbd.Error:                        # likewise: the next poll says so again
            pass
