"""A real ext4 file system in a file, made and changed without root, and one big file in it for a database."""
import os
import pathlib
import re
import shutil

from lab.moment import Image, different_blocks
from lab.processes import Failure
from lab.writer import BLOCK, content

SOURCES = ("/usr/share/doc", "/usr/share/man", "/usr/share/perl", "/usr/lib/python3", "/usr/share/locale", "/usr/include", "/usr/lib")
DATABASE = "/srv/database"


class FileSystem:
    """The image at `path`.  What changes it later (change()) is told as blocks, for a writer to write."""

    def __init__(self, lab, size, database_size, files_size):
        self.lab, self.size = lab, size
        self.path = lab.path / "disk.img"
        self._mirror = lab.path / "mirror.img"        # the file system's own blocks as they are by now
        self.files = 0
        tree = lab.path / "tree"
        self._fill(tree, files_size)
        self._write_database(tree, database_size // BLOCK)
        lab.run("mkfs.ext4", "-q", "-F", "-b", BLOCK, "-L", "tidemark-demo", "-E", "root_owner=0:0", "-d", tree, self.path,
                f"{size >> 10}K")
        self._samples = [path for path in sorted(tree.rglob("*")) if path.is_file() and path != tree / DATABASE[1:]
                         and re.fullmatch(r"[\w.+-]+", path.name)]
        lab.run("cp", "--sparse=always", self.path, self._mirror)
        self.database = self._database_blocks(database_size // BLOCK)

    def _fill(self, tree, budget):
        for source in map(pathlib.Path, SOURCES):
            for folder, _, names in os.walk(source):
                target = tree / pathlib.Path(folder).relative_to("/")
                target.mkdir(parents=True, exist_ok=True)
                for name in names:
                    file = pathlib.Path(folder, name)
                    if file.is_symlink() or not file.is_file() or not os.access(file, os.R_OK):
                        continue
                    budget -= -(-file.stat().st_size // BLOCK) * BLOCK
                    if budget < 0:
                        return
                    shutil.copyfile(file, target / name)
                    self.files += 1

    @staticmethod
    def _write_database(tree, blocks):
        file = tree / DATABASE[1:]
        file.parent.mkdir(parents=True)
        with open(file, "wb") as out:
            for block in range(blocks):
                out.write(content(block, 0))

    def _database_blocks(self, count):
        """Where the database's blocks lie on the disk, in its order; each is looked at."""
        listed = self.lab.run("debugfs", "-R", f"bmap {DATABASE} 0", self.path).stdout
        if not listed.strip().isdigit():
            raise Failure(f"debugfs does not find '{DATABASE}': {listed.strip()}")
        extents = self.lab.run("debugfs", "-R", f"dump_extents -l {DATABASE}", self.path).stdout
        blocks = []
        for line in extents.splitlines():
            numbers = re.match(r"\s*\d+/\s*\d+\s+\d+/\s*\d+\s+(\d+)\s*-\s*(\d+)\s+(\d+)\s*-\s*(\d+)", line)
            if numbers:
                _, _, first, last = map(int, numbers.groups())
                blocks.extend(range(first, last + 1))
        with Image(self.path) as image:
            if len(blocks) != count or any(image[block] != content(n, 0) for n, block in enumerate(blocks)):
                raise Failure(f"the blocks of '{DATABASE}' are not where debugfs says")
        return blocks

    def change(self, name, files, old=None):
        """Adds a directory `name` with `files` files, removes those of `old`: the {block: bytes} that this changes."""
        before = self.lab.path / "mirror-before.img"
        self.lab.run("cp", "--sparse=always", self._mirror, before)
        chosen = self._samples[:files]
        self._samples = self._samples[files:] + chosen
        script = [f"rm /{old}/{n}" for n in range(files)] if old else []
        script += [f"mkdir /{name}", *(f'write "{path}" /{name}/{n}' for n, path in enumerate(chosen))]
        commands = self.lab.path / "debugfs.commands"
        commands.write_text("\n".join(script) + "\n")
        self.lab.run("debugfs", "-w", "-f", commands, self._mirror)
        with Image(before) as a, Image(self._mirror) as b:
            changed = {block: b[block] for block in different_blocks(a, b)}
        before.unlink()
        return changed


def check(lab, path):
    """e2fsck's word: the number of files in it, or a Failure."""
    done = lab.run("e2fsck", "-fn", path, ok=None)
    summary = re.search(r": (\d+)/\d+ files", done.stdout)
    if done.returncode != 0 or not summary:
        raise Failure(f"e2fsck -fn '{path.name}': exit status {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return int(summary.group(1))
