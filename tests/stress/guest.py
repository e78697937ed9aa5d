"""A guest: a thread that writes, zeroes, discards, reads and flushes over NBD, some requests at a time, and tells the model.

No two requests in flight touch the same sector, so that a read can be checked, and the versions of a sector have an order.
A connection that ends is made again while the guest is not told to stay away; an error of the disk is the end.
"""
import contextlib
import errno
import random
import threading
import time

import nbd
from model import SECTOR, Mismatch, content, tell, versions

DEPTH = 6
# What a guest does, by weight: (name, weight)
MIX = (("write", 50), ("read", 16), ("zero", 12), ("trim", 10), ("flush", 8), ("fua", 4))
SIZES = (1, 1, 3, 8, 8, 8, 16, 32, 64, 128, 256, 1000)


class Guest(threading.Thread):
    """Ends with stop().  `error` is what ended it otherwise."""

    def __init__(self, name, uri, model, seed, rate, clock, patience):
        super().__init__(name=f"guest of {name}", daemon=True)
        self.error = None
        self.requests = self.slowest = 0
        self._name, self._uri, self.model, self._clock = name, uri, model, clock
        self._rng, self._rate, self._patience = random.Random(seed), rate, patience
        self._disk, self._busy, self._begun_at, self._answers = None, {}, {}, 0
        self._lock = threading.Condition()
        self._wanted, self._is = "away", "away"  # "away", "held", "busy", "ended"

    # For the operator

    def go(self):
        """Connects if need be, and works."""
        self._want("busy", wait=False)

    def hold(self):
        """Returns when nothing is in flight; the connection stays."""
        self._want("held")

    def leave(self):
        """Returns when nothing is in flight and the connection is closed."""
        self._want("away")

    def stop(self):
        self._want("ended")
        self.join(30)

    def abandon(self):
        """Ends by itself; nobody asks any more."""
        self._wanted = "ended"

    def _want(self, what, wait=True):
        with self._lock:
            self._wanted = what
            self._lock.notify_all()
            end = self._clock.now + self._patience
            while wait and self._is != what and not self.error:
                if not self._lock.wait(0.1) and self._clock.now > end:
                    raise TimeoutError(f"the guest of {self._name} waits for an answer for more than {self._patience} s")
        if self.error:
            raise self.error

    def _now(self, what):
        with self._lock:
            self._is = what
            self._lock.notify_all()

    # The thread

    def run(self):
        try:
            while self._wanted != "ended":
                self._turn()
            with contextlib.suppress(nbd.Error):
                self._part()
            self._lost()
        except Exception as error:               # told to whoever asks
            self.error = error
        self._now("ended")

    def _turn(self):
        if self._wanted == "away" and self._disk is None:
            self._now("away")
            with self._lock:
                self._lock.wait(0.2)
            return
        try:
            if self._wanted == "away":
                self._part()
            elif self._disk is None:
                self._connect()
            elif self._wanted == "held":
                self._drain()
                self._now("held")
                with self._lock:
                    if self._wanted == "held":
                        self._lock.wait(0.2)
            else:
                self._work()
        except nbd.Error:
            self._lost()

    def _connect(self):
        """A server that is not there yet, or has no such export yet, is asked again."""
        end = self._clock.now + self._patience
        while True:
            disk = nbd.NBD()
            try:
                disk.connect_uri(self._uri)
                break
            except nbd.Error as error:
                if self._wanted in ("away", "ended"):
                    return
                if self._clock.now > end:
                    raise TimeoutError(f"{self._uri} cannot be connected to: {error}") from None
                time.sleep(0.02)
        self._disk, self._busy, self._begun_at = disk, {}, {}
        self._unit = max(1, disk.get_block_size(nbd.SIZE_MINIMUM) // SECTOR)     # of a compress filter it is a cluster
        self._limit = min(disk.get_size() // SECTOR, self.model.sectors) // self._unit * self._unit

    def _part(self):
        if self._disk is not None:
            self._drain()
            self._disk.shutdown()
        self._disk = None

    def _lost(self):
        for write in self._busy.values():
            if write is not None and write.done is None:
                self.model.cut_off(write)
        self._disk, self._busy, self._begun_at = None, {}, {}
        if self.error:
            raise self.error

    def _drain(self):
        while self._busy:
            self._poll(-1)

    def _poll(self, milliseconds):
        answers = self._answers
        self._disk.poll(200 if milliseconds < 0 else milliseconds)
        if self.error:
            raise self.error
        if self._answers == answers and self._begun_at:
            waiting = self._clock.now - min(self._begun_at.values())
            if waiting > self._patience:
                raise TimeoutError(f"the guest of {self._name} waits for an answer for {waiting:.0f} s")

    def _work(self):
        self._now("busy")
        while len(self._busy) >= DEPTH:
            self._poll(-1)
        kind = self._rng.choices([name for name, _ in MIX], [weight for _, weight in MIX])[0]
        run = self._free_run()
        if run or kind == "flush":
            self._send(kind, run)
        self._poll(max(1, int(1000 * self._rng.expovariate(self._rate))) if self._rate else 0)

    def _free_run(self):
        """Often where others were, often aligned."""
        count = -(-self._rng.choice(SIZES) // self._unit) * self._unit
        count = min(count, self._limit)
        first = self._rng.randrange(self._limit - count + 1)
        if self._rng.random() < 0.5:
            first = first % max(1, self._limit // 8)
        if self._rng.random() < 0.6:
            first -= first % 8
        first -= first % self._unit
        for start, length in self._busy:
            if first < start + length and start < first + count:
                return None
        return first, count

    def _send(self, kind, run):
        first, count = run or (-1, 0)
        key = (first, count) if run else (-1 - self.requests, 0)
        at, length = first * SECTOR, count * SECTOR
        writes = kind in ("write", "fua", "zero", "trim")
        write = self.model.begin(first, count, kind in ("zero", "trim"), kind == "trim") if writes else None
        flush = self.model.begin_flush() if kind == "flush" else None
        wanted = self.model.states[first:first + count] if kind == "read" else None
        buffer = nbd.Buffer(length) if kind == "read" else None
        self._busy[key] = write
        self._begun_at[key] = begun = self._clock.now
        self.requests += 1

        def completed(error):
            if key not in self._busy or self._busy[key] is not write:
                return 1                         # of a connection that is gone
            self._answers += 1
            try:
                self._answered(kind, error.value, write, flush, first, buffer, wanted)
            except (Mismatch, OSError) as problem:
                self.error = problem
            del self._busy[key]
            self._begun_at.pop(key, None)
            self.slowest = max(self.slowest, self._clock.now - begun)
            return 1

        if kind in ("write", "fua"):
            flags = nbd.CMD_FLAG_FUA if kind == "fua" else 0
            self._disk.aio_pwrite(content(write.version, first, count), at, completed, flags)
        elif kind == "zero":
            self._disk.aio_zero(length, at, completed, nbd.CMD_FLAG_NO_HOLE if self._rng.random() < 0.3 else 0)
        elif kind == "trim":
            self._disk.aio_trim(length, at, completed)
        elif kind == "read":
            self._disk.aio_pread(buffer, at, completed)
        else:
            self._disk.aio_flush(completed)

    def _answered(self, kind, error, write, flush, first, buffer, wanted):
        if error in (errno.ENOTCONN, errno.ESHUTDOWN):     # the server is gone, or going
            if write:
                self.model.cut_off(write)
        elif error in (errno.EIO, errno.ENOSPC) and self.model.may_fail:
            if write:
                self.model.cut_off(write)
        elif error:
            raise OSError(error, f"the disk {self._name} refused a {kind} at sector {first}")
        elif write:
            self.model.end(write, durable=kind == "fua")
        elif flush:
            self.model.end_flush(flush)
        elif kind == "read":
            found = versions(bytes(buffer.to_bytearray()), first)
            tell(found, wanted, f"a read of {self._name} at sector {first}", first)
