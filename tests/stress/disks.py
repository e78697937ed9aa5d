"""What the daemon serves, as it should be: disks, the images that they stand on, bitmaps, jobs.

A Disk is what a guest sees: filters on top of a chain of layers, of which the first is written to.  Operations keep this
true to what they did; the checks hold the daemon against it.
"""
import dataclasses
import json
import pathlib

from faults import Fault
from guest import Guest
from model import SECTOR, Marks, Model, Point, versions


@dataclasses.dataclass(eq=False)
class Bitmap:
    """`base` is the image of its last backup, from which its incremental ones go on.  Who changes it otherwise gives it another
    `turn`, so that a backup that is under way does not become its base.
    """
    name: str
    marks: Marks
    persistent: bool
    granularity: int
    base: pathlib.Path | None = None
    turn: int = 0
    job: object = None                           # which holds it
    since: Marks | None = None                   # what is written while the job holds it


@dataclasses.dataclass(eq=False)
class Checkpoint:
    """`marks` are all that was written since; `base` is the backup of its moment."""
    name: str
    marks: Marks
    persistent: bool
    base: pathlib.Path | None = None
    job: object = None                           # which goes by it


@dataclasses.dataclass(eq=False)
class Layer:
    """An image.  `content` is what it reads as, alone, with what is below: states by sector; None when nobody can know."""
    node: str
    path: pathlib.Path
    format: str
    content: list | None = None
    bitmaps: dict = dataclasses.field(default_factory=dict)
    snapshots: dict = dataclasses.field(default_factory=dict)
    options: dict = dataclasses.field(default_factory=dict)
    owned: bool = False                          # its node is there until blockdev-del; else it goes with its last user
    lazy: bool = False                           # its refcounts
    shared: bool = False                         # what it stands on is in use, though it is not
    leaky: bool = False                          # it was open when the daemon was killed, or its file has failed
    fault: Fault | None = None                   # below it; until it is opened anew

    @property
    def fails(self):
        return bool(self.fault and self.fault.fails)

    def describe(self, backing="none"):
        """Its node, for blockdev-add.  backing: a node's name, None for none, "none" for what the image names."""
        file = {"driver": "file", "filename": str(self.path)}
        options = {"driver": self.format, "node-name": self.node, "file": self.fault.above(file) if self.fault else file, **self.options}
        if self.format == "qcow2" and backing != "none":
            options["backing"] = backing
        return options


@dataclasses.dataclass(eq=False)
class Job:
    """`ended(job, ok)` is told once; what it returns is checked by nobody."""
    id: str
    kind: str
    disks: list
    ended: object
    layers: list = dataclasses.field(default_factory=list)      # that nobody else may change
    changes_chain: bool = False
    cancelled: bool = False
    may_fail: bool = False
    completing: bool = False
    point: Point | None = None                   # open since it was told to end
    note: dict = dataclasses.field(default_factory=dict)


class Disk:
    def __init__(self, world, index, layer, sectors, thread):
        self.world, self.index, self.name = world, index, f"disk{index}"
        self.model = Model(index + 1, sectors)
        self.layers, self.filters, self.thread = [layer], [], thread
        self.checkpoints, self.had_checkpoints = [], False       # from the oldest on
        self.deleted_checkpoints = set()
        self.uncertain = False                   # it was cut off at a pivot
        self.jobs, self.serial = [], 0
        self.guest, self.crashed = None, False

    @property
    def top(self):
        return self.layers[0]

    @property
    def fails(self):
        """Errors on purpose are below it."""
        return self.top.fails

    @property
    def root(self):
        """What is exported."""
        return self.filters[0][0] if self.filters else self.top.node

    @property
    def named(self):
        """By what the image is meant; filters are passed by, but not a raw node."""
        return self.top.node if any(kind == "raw" for _, kind in self.filters) else self.root

    @property
    def size(self):
        return self.model.sectors * SECTOR

    @property
    def stays(self):
        """Without its export."""
        return bool(self.filters) or self.top.owned

    def uri(self):
        return f"nbd+unix:///{self.name}?socket={self.world.lab.path / 'nbd.sock'}"

    # The guest

    def start_guest(self):
        self.serial += 1
        rate = self.world.rng.choice((0, 300, 1500))
        self.guest = Guest(self.name, self.uri(), self.model, self.world.rng.random(), rate, self.world.clock, self.world.patience)
        self.guest.start()
        self.guest.go()

    def stop_guest(self):
        if self.guest:
            guest, self.guest = self.guest, None
            self.world.requests += guest.requests
            self.world.slowest_request = max(self.world.slowest_request, guest.slowest)
            guest.stop()

    # The export

    def export(self, **options):
        thread = {"iothread": self.thread, "fixed_iothread": True} if self.thread else {}
        self.world.qmp("block-export-add", type="nbd", id=self.name, node_name=self.root, name=self.name, writable=True, **thread, **options)

    def unexport(self):
        self.world.remove_export(self.name)

    def without_export(self, change):
        """Takes the disk from its guest for a moment, one way or another."""
        softly = self.world.rng.random() < 0.5
        if softly:
            self.guest.leave()
        self.unexport()
        if not softly:
            self.guest.leave()
        try:
            change()
        finally:
            self.export()
            self.guest.go()

    # Bitmaps

    def drop_marks(self, layer):
        """Nobody writes to it any more."""
        for bitmap in layer.bitmaps.values():
            for marks in (bitmap.marks, bitmap.since):
                self.model.forget(marks)

    def record_again(self, layer):
        """It is written to from now on."""
        for bitmap in layer.bitmaps.values():
            old, bitmap.marks = bitmap.marks, self.model.record()
            bitmap.marks.recording = old.recording
            bitmap.marks.must = (old.must + bytes(len(bitmap.marks.must)))[:len(bitmap.marks.must)]
            self.world.drop_chain(bitmap)

    def forget_bitmap(self, layer, name):
        bitmap = layer.bitmaps.pop(name)
        self.model.forget(bitmap.marks)

    def forget_checkpoint(self, checkpoint):
        self.checkpoints.remove(checkpoint)
        self.deleted_checkpoints.add(checkpoint.name)
        self.model.forget(checkpoint.marks)

    # Content

    def read(self):
        """Through a connection of its own, in pieces; guests go on."""
        return self.world.read_export(self.name)

    def chain_files(self):
        return [layer.path.name for layer in self.layers]


class Clone:
    """Another image on a layer of a disk, with a guest of its own, until its end()."""

    def __init__(self, world, layer, states, busy):
        self.world, self.layer, self.name = world, layer, layer.node
        world.clones.append(self)
        self.model = Model(100 + world.turn(100), len(states), states)
        world.qmp("block-export-add", type="nbd", id=self.name, node_name=layer.node, name=self.name, writable=True)
        self.guest = Guest(self.name, f"nbd+unix:///{self.name}?socket={world.lab.path / 'nbd.sock'}", self.model, world.rng.random(),
                           world.rng.choice((300, 1500)), world.clock, world.patience)
        self.guest.start()
        if busy:
            self.guest.go()

    def end(self):
        """It is what its guest has made of it, now and by itself."""
        self.world.clones.remove(self)
        if self.world.alive:
            self.guest.hold()
            self.model.check_now(self.world.read_export(self.name), f"the clone {self.name}")
            self.stop_guest()
            self.world.remove_export(self.name)
        self.layer.content = self.model.states
        self.layer.shared = True
        self.world.retire(self.layer)

    def stop_guest(self):
        self.world.requests += self.guest.requests
        self.guest.stop()


def held_by(path, world):
    """What an image itself holds of what it shows: (first byte, bytes)."""
    done = world.run("qemu-img", "map", "-U", "--output=json", "-f", "qcow2", path)
    return [(part["start"], part["length"]) for part in json.loads(done.stdout) if part["depth"] == 0]


def states_of(path, format_, world, extra=()):
    """What an image holds, with all that it stands on, to qemu-img."""
    flat = world.path(f"flat-{path.name}")
    world.run("qemu-img", "convert", "-U", "-f", format_, "-O", "raw", *extra, path, flat)
    try:
        return versions(flat.read_bytes())
    finally:
        flat.unlink()


def backing_name_of(path, world):
    """What an image's header says: a path, or the options of a node."""
    format_ = path.name.rpartition(".")[2]
    done = world.run("qemu-img", "info", "-U", "--output=json", "-f", format_, path)
    return json.loads(done.stdout).get("backing-filename")


def backing_of(path, world):
    """The name of the file, out of that."""
    name = backing_name_of(path, world)
    if name and name.startswith("json:"):
        name = json.loads(name.removeprefix("json:"))["file"]["filename"]
    return name and pathlib.Path(name).name
