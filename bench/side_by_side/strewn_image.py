"""A large qcow2 image of which a share is allocated, strewn: the tables are written, the data is a hole of the file.

Each L2 table has as many entries as every other, at random; their clusters lie in the file as in the guest's disk, which
is what is easiest for a check: when these lie at random, too, qemu-img takes more than a minute."""
import array
import random
import struct

BITS = 16                                     # of a cluster
CLUSTER = 1 << BITS
ENTRIES, COUNTS = CLUSTER // 8, CLUSTER // 2  # of an L2 table; of a block of 16-bit refcounts
COPIED = 1 << 63
ONES = array.array("H", [1] * COUNTS)


def words(values):
    table = array.array("Q", values)
    table.byteswap()
    return table.tobytes().ljust(-len(table) * 8 % CLUSTER + len(table) * 8, b"\0")


def refcount_block(used):
    """The first `used` clusters are used once."""
    counts = ONES[:used]
    counts.byteswap()
    return counts.tobytes().ljust(CLUSTER, b"\0")


def write(path, size, share):
    """`size`: a multiple of what an L2 table maps, with an L1 and a refcount table of one cluster each."""
    tables = size // (ENTRIES * CLUSTER)
    each = int(ENTRIES * share)
    data = tables * each
    blocks = 1
    while blocks * COUNTS < 3 + blocks + tables + data:
        blocks += 1
    first_table = 3 + blocks
    total = first_table + tables + data
    strewn = random.Random(1)
    places = iter(range(first_table + tables, total))
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, BITS, size, 0, tables, 2 * CLUSTER, CLUSTER, 1,
                         0, 0, 0, 0, 0, 4, 104)
    with open(path, "wb") as file:
        file.write(header.ljust(CLUSTER, b"\0"))
        file.write(words((3 + i) << BITS for i in range(blocks)))
        file.write(words((first_table + i) << BITS | COPIED for i in range(tables)))
        for block in range(blocks):
            file.write(refcount_block(min(COUNTS, total - block * COUNTS)))
        for _ in range(tables):
            entries = [0] * ENTRIES
            for i in sorted(strewn.sample(range(ENTRIES), each)):
                entries[i] = next(places) << BITS | COPIED
            file.write(words(entries))
        file.truncate(total * CLUSTER)
