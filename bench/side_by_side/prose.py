"""Something that can be compressed, to a little over half of it, as text can."""
import random
import string

from side_by_side.nbd_cases import MiB, fill

WORDS = 4096


def prose(path, size):
    """A file of words; no two clusters of it are alike within 16 MiB."""
    source = random.Random(1)
    words = ["".join(source.choices(string.ascii_lowercase, k=source.randint(2, 11))) for _ in range(WORDS)]
    text = " ".join(source.choices(words, k=16 * MiB // 6)).encode()
    fill(path, size, text[:16 * MiB])
    return path
