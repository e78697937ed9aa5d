"""What journal_fs wrote down, and what a disk may hold after a power cut in the middle of it.

Durable is what a file held when it was last synced, and writes that are durable by themselves.  Of each other write
since, a cut leaves all, nothing, or some of its sectors; of files that were made, removed or renamed since their directory was synced, it leaves those up to some
moment.
"""
import collections

SECTOR = 512

Record = collections.namedtuple("Record", "kind path offset length data other", defaults=(0, 0, b"", None))


def read(file):
    """All records of a journal, in order."""
    records = []
    with open(file, "rb") as journal:
        while line := journal.readline():
            kind, path, *rest = line.decode().split()
            if kind in ("write", "durable"):
                offset, length = map(int, rest)
                data = journal.read(length)
                records.append(Record(kind, path, offset, length, data))
            elif kind == "zero":
                records.append(Record(kind, path, *map(int, rest)))
            elif kind == "size":
                records.append(Record(kind, path, length=int(rest[0])))
            elif kind == "rename":
                records.append(Record(kind, path, other=rest[0]))
            else:
                records.append(Record(kind, path))
    return records


class File:
    def __init__(self, content=b""):
        self.durable = bytearray(content)
        self.pending = []                        # records, in order

    def sync(self):
        for record in self.pending:
            apply(self.durable, record)
        self.pending.clear()

    def after_cut(self, rng):
        content = bytearray(self.durable)
        for record in self.pending:
            fate = "whole" if record.kind == "durable" else rng.choice(("whole", "whole", "lost", "torn"))
            if fate == "whole" or (fate == "torn" and record.kind == "size"):
                apply(content, record)
            elif fate == "torn":
                for at in range(0, record.length, SECTOR):
                    if rng.random() < 0.5:
                        apply(content, part(record, at, min(SECTOR, record.length - at)))
        return bytes(content)


def part(record, at, length):
    return record._replace(offset=record.offset + at, length=length, data=record.data[at:at + length])


def apply(content, record):
    if record.kind == "size":
        del content[record.length:]
        content.extend(bytes(record.length - len(content)))
        return
    end = record.offset + record.length
    if record.kind == "zero":
        end = min(end, len(content))
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[record.offset:end] = record.data if record.data else bytes(max(0, end - record.offset))


class Disk:
    """The files below journal_fs while its records are gone through.  Syncs of the paths in `lies` do nothing, as on
    a disk that says that they are done."""

    def __init__(self, contents, lies=()):
        self.names = {path: File(content) for path, content in contents.items()}    # as they are durable
        self.now = dict(self.names)
        self.changes = []                        # of names, not durable yet
        self.lies = lies

    def take(self, record):
        kind, path = record.kind, record.path
        if kind in ("create", "unlink", "rename"):
            self.changes.append((record, self.rename(self.now, record, File())))
        elif kind == "syncdir":
            for change, made in self.changes:
                self.rename(self.names, change, made)
            self.changes.clear()
        elif kind == "sync":
            if path not in self.lies and path in self.now:
                self.now[path].sync()
        elif path in self.now:
            self.now[path].pending.append(record._replace(kind="write") if kind == "durable" and path in self.lies else record)

    @staticmethod
    def rename(names, record, made):
        if record.kind == "create":
            return names.setdefault(record.path, made)
        gone = names.pop(record.path, None)
        if record.kind == "rename" and gone:
            names[record.other] = gone
        return gone

    def after_cut(self, rng):
        """{path: content}, one of what there may be."""
        names = dict(self.names)
        for change, made in self.changes[:rng.randint(0, len(self.changes))]:
            self.rename(names, change, made)
        return {path: file.after_cut(rng) for path, file in names.items()}
