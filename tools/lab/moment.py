"""Is an image exactly what the disk held at one moment?

A block may hold its version k at a moment T only if version k was begun by then and version k+1 was not yet done:
begun(k) <= T <= done(k+1).  So every block of an image says when it may have been, and the image is a
point in time if, and only if, there is a moment that all its blocks agree on.  Nobody has to pause for that, and
nobody has to know when the point was taken; the moment is found to within the time of a few writes.

Then the log is replayed up to that moment onto a copy of the first image (of the writes in flight at it, those
that the image has), and the copy and the image are compared byte for byte.
"""
import os
from collections import defaultdict

from lab.processes import Failure
from lab.writer import BLOCK

FIRST = float("-inf")
NEVER = float("inf")
STEP = 1 << 20


class Moment:
    def __init__(self, earliest, latest):
        self.earliest, self.latest = earliest, latest
        self.in_flight = 0


class Image:
    """A file, block by block."""

    def __init__(self, path, writable=False):
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self.size = os.fstat(self._file).st_size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        os.close(self._file)

    def read(self, offset, length):
        return os.pread(self._file, length, offset)

    def __getitem__(self, block):
        return self.read(block * BLOCK, BLOCK)

    def __setitem__(self, block, data):
        if os.pwrite(self._file, data, block * BLOCK) != len(data):
            raise OSError("short write")


def different_blocks(a, b):
    """Blocks in which two images of one size differ."""
    for start in range(0, a.size, STEP):
        x, y = a.read(start, STEP), b.read(start, STEP)
        if x != y:
            yield from ((start + at) // BLOCK for at in range(0, STEP, BLOCK) if x[at:at + BLOCK] != y[at:at + BLOCK])


class Replay:
    """A copy of the first image that follows the writer's log from one moment to a later one."""

    def __init__(self, path, log):
        self._copy = Image(path, writable=True)
        self._log = log
        self._applied = {}                    # block: the write whose content the copy holds

    def close(self):
        self._copy.close()

    def check(self, path, begin, end):
        """The moment between `begin` and `end` at which the disk was as the image at `path`; a Failure if none."""
        with Image(path) as image:
            if image.size != self._copy.size:
                raise Failure(f"'{path}' has {image.size} bytes, the disk has {self._copy.size}")
            found = {block: self._versions(image, block, writes, begin, end)
                     for block, writes in self._writes_by_block(end).items()}
            moment = agree([[span for _, span in versions] for versions in found.values()], begin, end)
            if moment is None:
                raise Failure(f"'{path}': its blocks agree on no moment between {begin:.3f} and {end:.3f}")
            self._replay_to(moment, found)
            wrong = list(different_blocks(image, self._copy))
            if wrong:
                raise Failure(f"'{path}' differs from the disk in {len(wrong)} blocks, the first at byte {wrong[0] * BLOCK}")
        moment.in_flight = sum(write.begun <= moment.earliest and (write.done is None or write.done > moment.earliest)
                               for write in list(self._log))
        return moment

    def _writes_by_block(self, end):
        blocks = defaultdict(list)
        for write in list(self._log):
            if write.begun <= end:
                for block in range(write.first, write.first + write.count):
                    blocks[block].append(write)
        return blocks

    def _versions(self, image, block, writes, begin, end):
        """(write, (from, to)) of each version that the image may hold in this block."""
        held = image[block]
        line = [None, *writes]
        matching = []
        for write, after in zip(line, [*writes, None]):
            start = write.begun if write else FIRST
            stop = after.done if after and after.done is not None else NEVER
            if stop >= begin and start <= end and held == self._content(block, write):
                matching.append((write, (start, stop)))
        if not matching:
            raise Failure(f"block {block} (byte {block * BLOCK}) holds none of the contents it may have had")
        return matching

    def _content(self, block, write):
        if write is not None:
            return write.block(block)
        # Before any write: what the copy was made with, as long as it was not replayed over.
        return self._copy[block] if block not in self._applied else None

    def _replay_to(self, moment, found):
        for block, versions in found.items():
            write = next(write for write, (start, stop) in versions if start <= moment.earliest <= stop)
            if write is not None and self._applied.get(block) is not write:
                self._copy[block] = write.block(block)
                self._applied[block] = write


def agree(spans_of_blocks, begin, end):
    """The first stretch of time in [begin, end] that lies in one span of every block, or None."""
    several = [spans for spans in spans_of_blocks if len(spans) != 1]
    for spans in spans_of_blocks:
        if len(spans) == 1:
            begin, end = max(begin, spans[0][0]), min(end, spans[0][1])
    starts = sorted({begin, *(start for spans in several for start, _ in spans if begin < start <= end)})
    for at in starts:
        if at <= end and all(any(start <= at <= stop for start, stop in spans) for spans in several):
            stops = [max(stop for start, stop in spans if start <= at <= stop) for spans in several]
            return Moment(at, min([end, *stops]))
    return None
