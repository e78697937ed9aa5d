"""What a disk may hold, sector by sector.

Every write has a version of its own, and each sector that it writes says which: 64 times `version << 24 | sector`.  Version 0 is
zeroes.  A sector's state is the version that it holds, or the set of those that it may hold: of a discard, of writes that were
cut off, of what a crash may have lost.

A Point is what the disk may have held at one moment between two others, as of a backup: what it held before, and all that
was under way meanwhile.  Marks are the sectors that a bitmap must have as dirty.
"""
import array
import contextlib
import struct
import threading

SECTOR = 512
ZEROES = bytes(SECTOR)
SECTOR_BITS = 24
PER_SECTOR = SECTOR // 8


def content(version, first, count):
    """What a write of these sectors writes."""
    if not version:
        return bytes(count * SECTOR)
    return b"".join(struct.pack("<Q", version << SECTOR_BITS | sector) * PER_SECTOR for sector in range(first, first + count))


def versions(data, first=0):
    """Of each sector of what was read at sector `first`; None of one that is nothing that a guest wrote there."""
    heads = array.array("Q", data)[::PER_SECTOR]
    found = []
    for index, head in enumerate(heads):
        there = data[index * SECTOR:(index + 1) * SECTOR]
        if head == 0:
            found.append(0 if there == ZEROES else None)
        else:
            whole = there == struct.pack("<Q", head) * PER_SECTOR and head & (1 << SECTOR_BITS) - 1 == first + index
            found.append(head >> SECTOR_BITS if whole else None)
    return found


def either(*states):
    """The state of what holds one of these."""
    every = frozenset().union(*(state if isinstance(state, frozenset) else {state} for state in states))
    return next(iter(every)) if len(every) == 1 else every


def allows(state, version):
    return version in state if isinstance(state, frozenset) else version == state


class Mismatch(Exception):
    """A disk that does not hold what it must."""


def tell(found, wanted, what, first=0):
    """Raises Mismatch where `found` holds what `wanted` does not allow; both are sector by sector, from `first` on."""
    if len(found) != len(wanted):
        raise Mismatch(f"{what}: {len(found)} sectors instead of {len(wanted)}")
    wrong = [n for n, (version, state) in enumerate(zip(found, wanted)) if not (version == state or allows(state, version))]
    if wrong:
        shown = ", ".join(f"sector {first + n} holds {found[n]} instead of {_shown(wanted[n])}" for n in wrong[:6])
        raise Mismatch(f"{what}: {len(wrong)} of {len(found)} sectors are wrong: {shown}")


def _shown(state):
    return f"one of {sorted(state)}" if isinstance(state, frozenset) else state


class Write:
    """A request that changes content; in flight until it is done, in the log until a flush has covered it.

    A vague one leaves each sector as it was, or as it says: a discard, or one that was cut off.
    """
    __slots__ = ("number", "first", "count", "version", "vague", "done")

    def __init__(self, number, first, count, version, vague):
        self.number, self.first, self.count, self.version, self.vague = number, first, count, version, vague
        self.done = None

    def sectors(self):
        return range(self.first, self.first + self.count)


class Point:
    """What a disk may hold at a moment between the point's opening and its closing."""

    def __init__(self, states, in_flight):
        self.states, self._begun = states, list(in_flight)

    def add(self, write):
        self._begun.append(write)

    def settle(self):
        for write in self._begun:
            for sector in write.sectors():
                self.states[sector] = either(self.states[sector], write.version)
        self._begun = []

    def check(self, data, what):
        tell(versions(data), self.states, what)


class Marks:
    """The sectors that a bitmap must have as dirty: those of writes that were begun while it recorded, and not those of discards,
    which may have done nothing."""

    def __init__(self, sectors, since):
        self.must, self.since, self.recording = bytearray(sectors), since, True

    def add(self, write):
        if self.recording and write.number > self.since and not write.vague:
            self.must[write.first:write.first + write.count] = b"\1" * write.count

    def join(self, other):
        self.must = bytearray(a | b for a, b in zip(self.must, other))


class Model:
    """One disk.  Guests report what they do; whoever has a disk's content asks whether it may be so.  Any thread."""

    def __init__(self, index, sectors, states=None):
        self.states = states or [0] * sectors
        self._durable, self._durable_at = list(self.states), 0
        self._log, self._points, self._marks = [], [], []
        self._number = index << 32               # those of other disks are others
        self._lock = threading.RLock()
        self.may_fail = False                    # requests, of a disk with errors on purpose

    @property
    def sectors(self):
        return len(self.states)

    # For guests

    def begin(self, first, count, zero=False, vague=False):
        with self._lock:
            self._number += 1
            write = Write(self._number, first, count, 0 if zero else self._number, vague)
            self._log.append(write)
            for point in self._points:
                point.add(write)
            return write

    def end(self, write, durable=False):
        """It was acknowledged."""
        with self._lock:
            self._number += 1
            write.done = self._number
            where = slice(write.first, write.first + write.count)
            self.states[where] = [either(state, write.version) if write.vague else write.version for state in self.states[where]]
            if durable:
                self._durable[where] = self.states[where]
            for marks in self._marks:
                marks.add(write)

    def cut_off(self, write):
        """Its answer will never come."""
        with self._lock:
            write.vague = True
            where = slice(write.first, write.first + write.count)
            self.states[where] = [either(state, write.version) for state in self.states[where]]
            self._number += 1
            write.done = self._number

    def now(self):
        with self._lock:
            return self._number

    def begin_flush(self):
        with self._lock:
            return self._number, list(self.states)

    def end_flush(self, begun):
        """A flush has succeeded: what was done when it was begun stays."""
        number, states = begun
        with self._lock:
            if number > self._durable_at:
                self._durable, self._durable_at = states, number
                self._log = [write for write in self._log if write.done is None or write.done > number]

    # Moments

    def open_point(self):
        with self._lock:
            point = Point(list(self.states), [write for write in self._log if write.done is None])
            self._points.append(point)
            return point

    def close_point(self, point):
        with self._lock:
            self._points.remove(point)
            point.settle()
            return point

    @contextlib.contextmanager
    def point(self):
        """What the disk may hold at some moment inside the `with` block."""
        point = self.open_point()
        try:
            yield point
        finally:
            self.close_point(point)

    # Bitmaps

    def record(self):
        """Marks that are about every write that is begun from now on."""
        with self._lock:
            marks = Marks(self.sectors, self._number)
            self._marks.append(marks)
            return marks

    def forget(self, marks):
        with self._lock:
            if marks in self._marks:
                self._marks.remove(marks)

    # Ends

    def check_now(self, data, what):
        """Nothing may be in flight.  What was found is what it holds from here on."""
        with self._lock:
            found = versions(data)
            tell(found, self.states, what)
            self._is(found)

    def _is(self, found):
        """What may have been written, and has been, has to be marked."""
        self.states = found
        for marks in self._marks:
            if marks.recording:
                for sector in [sector for sector, version in enumerate(found) if version > marks.since]:
                    marks.must[sector] = 1

    def everything_is_durable(self):
        with self._lock:
            self._durable, self._durable_at, self._log = list(self.states), self._number, []

    def crashed(self):
        """What the disk may hold now; what it did hold is told to recovered()."""
        with self._lock:
            states = list(self._durable)
            for write in self._log:
                for sector in write.sectors():
                    states[sector] = either(states[sector], write.version)
            self.states = states

    def recovered(self, data, what):
        with self._lock:
            found = versions(data)
            tell(found, self.states, what)
            self._is(found)
            self.everything_is_durable()

    def resize(self, sectors):
        """Nothing may be in flight.  What is new reads as zeroes."""
        with self._lock:
            grown = [0] * max(0, sectors - self.sectors)
            self.states = self.states[:sectors] + grown
            self._durable = self._durable[:sectors] + grown
            for marks in self._marks:
                marks.must = marks.must[:sectors] + bytes(grown)
