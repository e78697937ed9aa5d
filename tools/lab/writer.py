"""Writer: a guest that writes to a disk over NBD without pause, and a log of what it wrote when.

Unit is the block of 4 KiB.  Two requests in flight never touch the same block, so the contents of each block have
an order: its versions.  A version's content follows from the block and its number in the log; what the
log holds beside that is when the request was begun and when its answer was there, by one monotonic clock.
"""
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
    __slots__ = ("number", "first", "count", "data", "begun", "done")

    def __init__(self, number, first, count, data):
        self.number, self.first, self.count, self.data = number, first, count, data
        self.begun = self.done = None

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
    """Writes random runs of `blocks` over `uri`; `rate` requests a second, `depth` in flight."""

    def __init__(self, uri, blocks, rate=1500, depth=16, seed=1):
        super().__init__(daemon=True)
        self.log = []
        self.error = None
        self._uri, self._blocks, self._rate, self._depth = uri, blocks, rate, depth
        self._member = frozenset(blocks)
        self._random = random.Random(seed)
        self._busy, self._zeroed, self._in_flight = set(), set(), 0
        self._hot = range(len(blocks))
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
        disk = nbd.NBD()
        disk.connect_uri(self._uri)
        next_at = time.monotonic()
        while not self._ending:
            if self._hold:
                self._drain(disk)
                self._held.set()
                time.sleep(0.005)
                next_at = time.monotonic()
                continue
            self._push_one(disk)
            now = time.monotonic()
            if now < next_at:
                disk.poll(max(1, int((next_at - now) * 1000))) if self._in_flight else time.sleep(next_at - now)
                continue
            next_at = max(next_at + 1 / self._rate, now - 0.1)
            self._write_some(disk)
            while self._in_flight >= self._depth:
                disk.poll(-1)
        self._drain(disk)
        disk.shutdown()

    def _drain(self, disk):
        while self._in_flight:
            disk.poll(-1)

    def _push_one(self, disk):
        push = self._push
        if push is None or (push.writes and push.writes[-1].done is None):
            return
        if not push.waiting:
            self._push = None
            push.over.set()
        elif time.monotonic() >= push.next_at:
            block, data = push.waiting.pop()
            push.next_at = time.monotonic() + push.gap
            push.writes.append(self._submit(disk, block, [data]))

    def _write_some(self, disk):
        where = self._hot if self._random.random() < 0.998 else range(len(self._blocks))
        first = self._blocks[self._random.choice(where)]
        zero = self._random.random() < 0.02
        # Zeroes are also written in runs that cover whole granules of a bitmap.
        run = self._free_run(first, self._random.choice((1, 8, 32, 64) if zero else (1, 1, 1, 2, 4, 8)))
        # A block is zeroed at most once, so that zeroes are one version.
        if zero and self._zeroed.isdisjoint(run) and run:
            self._zeroed.update(run)
            self._submit(disk, first, [ZEROES] * len(run))
        elif run:
            self._submit(disk, first, None, min(len(run), 8))

    def _free_run(self, first, count):
        for end in range(first, first + count):
            if end not in self._member or end in self._busy:
                return range(first, end)
        return range(first, first + count)

    def _submit(self, disk, first, data, count=None):
        write = Write(len(self.log) + 1, first, count or len(data), data)
        run = range(first, first + write.count)
        zero = data is not None and all(block is ZEROES for block in data)
        contents = b"" if zero else b"".join(write.block(block) for block in run)
        self._busy.update(run)
        self._in_flight += 1

        def completed(error):
            write.done = time.monotonic()
            self._in_flight -= 1
            self._busy.difference_update(run)
            if error.value:
                self.error = OSError(error.value, f"the disk refused a write of block {first}")
            return 1

        write.begun = time.monotonic()
        self.log.append(write)
        if zero:
            disk.aio_zero(write.count * BLOCK, first * BLOCK, completed)
        else:
            disk.aio_pwrite(contents, first * BLOCK, completed)
        return write
