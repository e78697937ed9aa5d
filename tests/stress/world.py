"""The world of one run: a daemon, its disks and guests, the jobs that are under way, and the checks that hold at any time or at rest."""
import contextlib
import random
import time

import nbd
from daemon import STOPPED_MAX, Daemon
from disks import Disk, Layer, backing_name_of, backing_of, states_of
from faults import Fault
from lab.qmp import QmpError
from looking import check_checkpoints, forget_missing, remove_returned
from model import SECTOR, Mismatch, tell
from operation import FAILED

PIECE = 1 << 20
SCRATCH = "scratch"
FAULTS = ("fault", "blkdebug")


class Wrong(Exception):
    """What must not be."""


class World:
    QmpError, Wrong = QmpError, Wrong            # for operations

    def __init__(self, lab, program, seed, clock, patience):
        self.lab, self.rng, self.clock, self.patience = lab, random.Random(seed), clock, patience
        self.program = program
        self.daemon = Daemon(lab, program, clock, patience)
        self.disks, self.jobs, self.threads = [], {}, []
        self.clones, self._turns = [], 0         # images beside disks, while a job needs them
        self.retired = []                        # layers of which nobody is in need any more
        self.requests, self.slowest_request, self._number = 0, 0.0, 0
        self.groups, self.alive = {}, False      # throttle groups by the filters that use them
        self.sectors = 8 * 1024 * 1024 // SECTOR
        (lab.path / SCRATCH).mkdir()

    # Names and tools

    def new(self, prefix):
        self._number += 1
        return f"{prefix}{self._number}"

    def turn(self, count):
        """0 to count - 1, one after the other."""
        self._turns += 1
        return self._turns % count

    def path(self, name):
        return self.lab.path / name

    def qmp(self, command, **arguments):
        return self.daemon.monitor.execute(command, **arguments)

    def transaction(self, *actions, **properties):
        actions = [{"type": kind, "data": {key.replace("_", "-"): value for key, value in data.items()}} for kind, data in actions]
        self.qmp("transaction", actions=actions, **({"properties": properties} if properties else {}))

    def run(self, *words, **options):
        return self.lab.run(*words, timeout=STOPPED_MAX, **options)

    def note(self, text):
        self.daemon.note(text)

    def make_image(self, sectors, format_="qcow2", backing=None, options=None, prefix="image"):
        """A new file, as its Layer, whose node does not exist yet."""
        path = self.path(f"{self.new(prefix)}.{format_}")
        words = ["-b", backing.path, "-F", backing.format] if backing else []
        lazy = False
        if format_ == "qcow2":
            cluster = self.rng.choice((4096, 16384, 65536, 65536, 262144))
            chosen = [f"cluster_size={cluster}"]
            if cluster >= 16384 and self.rng.random() < 0.2:
                chosen.append("extended_l2=on")
            if lazy := self.rng.random() < 0.2:
                chosen.append("lazy_refcounts=on")
            words += ["-o", ",".join(chosen)]
        self.run("qemu-img", "create", "-q", "-f", format_, *words, path, str(sectors * SECTOR))
        return Layer(self.new("node"), path, format_, options=options if options is not None else self.choose_options(), lazy=lazy)

    def new_layer(self, format_):
        """Of a file that the daemon is to make."""
        name = self.new("image")
        return Layer(self.new("node"), self.path(f"{name}.{format_}"), format_)

    @staticmethod
    def as_layer(path):
        return Layer("", path, "qcow2")

    def with_fault(self, layer, share):
        """One in so many is slow or fails."""
        if self.rng.random() < share:
            layer.fault, layer.leaky = Fault(self.rng, fails=self.rng.random() < 0.6), True
        return layer

    def choose_options(self):
        options = {"discard": self.rng.choice(("unmap", "unmap", "ignore")), "tracking": {"mode": self.rng.choice(("power", "process"))}}
        if self.rng.random() < 0.3:
            options["detect-zeroes"] = "unmap" if options["discard"] == "unmap" else "on"
        return options

    def add_node(self, layer, backing="none", read_only=False):
        self.qmp("blockdev-add", **layer.describe(backing), **({"read-only": True} if read_only else {}))
        layer.owned = True

    def remove_export(self, name):
        self.qmp("block-export-del", id=name, mode="hard")
        self.until(lambda: all(export["id"] != name for export in self.qmp("query-block-exports")), f"the end of export {name}")

    def until(self, condition, what):
        end = self.clock.now + self.patience * 2
        while not condition():
            if self.clock.now > end:
                raise Wrong(f"not within {self.patience * 2} s: {what}")
            time.sleep(0.01)

    def read_export(self, name, socket="nbd.sock"):
        disk = nbd.NBD()
        disk.connect_uri(f"nbd+unix:///{name}?socket={self.lab.path / socket}")
        size = disk.get_size()
        data = b"".join(self.read_piece(name, disk, min(PIECE, size - at), at) for at in range(0, size, PIECE))
        disk.shutdown()
        return data

    def read_piece(self, name, disk, length, at, tries=40):
        """A read that copies into a disk that fails may fail with it."""
        while True:
            try:
                return disk.pread(length, at)
            except nbd.Error as error:
                if tries == 0 or not any(each.model.may_fail for each in self.disks):
                    raise Wrong(f"read of export {name}, {length} bytes at {at} of {disk.get_size()}: {error}") from error
                tries -= 1

    def dirty_granules(self, layer, name, writable):
        """(offset, bytes) of what a bitmap has as dirty, by an export of its own; None when there can be none."""
        export, context = self.new("bitmap-export"), f"qemu:dirty-bitmap:{name}"
        try:
            self.qmp("block-export-add", type="nbd", id=export, node_name=layer.node, name=export, bitmaps=[name], writable=writable)
        except QmpError as error:
            if "Permission conflict" in error.desc:      # a filter does not share it
                return None
            # A layer that a snapshot was put on while a group held its bitmaps stays writable, and they go on recording.
            if "incompatible with readonly export" in error.desc and not writable:
                return self.dirty_granules(layer, name, True)
            raise
        try:
            disk = nbd.NBD()
            disk.add_meta_context(context)
            disk.connect_uri(f"nbd+unix:///{export}?socket={self.lab.path / 'nbd.sock'}")
            dirty, at, size = [], 0, disk.get_size()

            def extent(_context, _offset, entries, _error):
                nonlocal at
                for length, flags in zip(entries[::2], entries[1::2]):
                    if flags & 1:
                        dirty.append((at, length))
                    at += length
                return 0

            while at < size:
                before = at
                disk.block_status(size - at, at, extent)
                if at == before:
                    raise Wrong(f"block status of {export} tells nothing at {at}")
            disk.shutdown()
            return dirty
        finally:
            self.remove_export(export)

    # What is needed no more

    def retire(self, layer):
        """Its node and file go as soon as no job has them."""
        self.retired.append(layer)

    def detach(self, layer):
        if not (self.alive and layer.owned):
            return
        try:
            self.qmp("blockdev-del", node_name=layer.node)
        except QmpError as error:                # what is found when it is closed is told, and it is gone
            if not (layer.fails and FAILED.search(error.desc)) or layer.node in self.nodes():
                raise
        layer.owned = False

    def drop_group(self, node):
        if group := self.groups.pop(node, None):
            self.qmp("object-del", id=group)

    def drop_filter(self, node):
        self.qmp("blockdev-del", node_name=node)
        self.drop_group(node)

    @staticmethod
    def drop_chain(bitmap):
        """Its next incremental backup would fit nowhere."""
        bitmap.base = None
        bitmap.turn += 1

    # The daemon's life

    def set_up(self):
        self.threads = ["thread0", "thread1"]
        for index in range(self.rng.choice((3, 4))):
            sectors = self.sectors // self.rng.choice((1, 2)) + self.rng.choice((0, 0, 8, 3))
            self.add_disk(self.rng.choice(("qcow2", "qcow2", "raw")) if index else "qcow2", sectors, self.rng.choice((None, *self.threads)))
        self.start()

    def start(self):
        self.daemon.start()
        self.alive = True
        for thread in self.threads:
            self.qmp("object-add", qom_type="iothread", id=thread)
        for disk in self.disks:
            self.open_disk(disk)

    def open_disk(self, disk):
        """All its layers one by one, or the first, which names the others."""
        below, disk.model.may_fail = None, False
        for layer in disk.layers:
            layer.fault = None
        names = [backing_name_of(layer.path, self) or "" for layer in disk.layers]
        # A header that describes a whole chain names no file to open.
        if self.rng.random() < 0.5 or any(name.startswith("json:") for name in names):
            for layer in reversed(disk.layers):
                layer.node = self.new("node")
                self.add_node(layer, below, read_only=layer is not disk.top)
                below = layer.node
        else:
            disk.top.node = self.new("node")
            self.add_node(disk.top)
            self.find_names(disk)
        disk.export()
        if disk.crashed:
            disk.model.recovered(disk.read(), f"{disk.name}, after a kill")
            disk.crashed = False
            if disk.uncertain:
                remove_returned(self, disk)
                forget_missing(self, disk)
                disk.uncertain = False
            self.check_bitmaps(disk)
            check_checkpoints(self, disk)
        disk.start_guest()

    def find_names(self, disk):
        """Of layers that have opened themselves."""
        names = {file: name for name, file in self.chain_of(disk.top.node, self.nodes())}
        for layer in disk.layers[1:]:
            layer.node = names[layer.path.name]
            layer.options.pop("tracking", None)        # nobody said how

    def add_disk(self, format_, sectors, thread=None):
        layer = self.make_image(sectors, format_)
        self.disks.append(Disk(self, len(self.disks), layer, sectors, thread))

    # What holds at any time

    def check_alive(self):
        self.daemon.check()
        for disk in self.disks + self.clones:
            if disk.guest and disk.guest.error:
                raise disk.guest.error

    def check_graph(self):
        """Chains are as they should be, where no job is about to change them."""
        nodes = self.nodes()
        for disk in self.disks:
            if any(job.changes_chain for job in disk.jobs):
                continue
            files = [file for _, file in self.chain_of(disk.top.node, nodes)]
            if files != disk.chain_files():
                raise Wrong(f"{disk.name} stands on {files} instead of {disk.chain_files()}")

    def nodes(self):
        return {node["node-name"]: node for node in self.qmp("query-named-block-nodes", flat=True)}

    @staticmethod
    def chain_of(name, nodes):
        """(node, file) of images from this node's on; filters between them are passed by."""
        found = []
        while name:
            node = nodes[name]
            children = {child["child"]: child["node-name"] for child in node["children"]}
            file = nodes[children["file"]] if node["drv"] in ("qcow2", "raw") else None
            while file and file["drv"] in FAULTS:
                file = nodes[file["children"][0]["node-name"]]
            if file and file["drv"] == "file":
                found.append((name, file["file"].rpartition("/")[2]))
                name = children.get("backing")
            else:
                name = children.get("backing") or children["file"]
        return found

    def check_content(self, disk):
        with disk.model.point() as point:
            data = disk.read()
        point.check(data, f"{disk.name}, read beside its guest")

    def check_bitmaps(self, disk):
        """What must be dirty is.  A layer below that a commit writes to shows nobody its bitmaps."""
        committing = any(job.kind.startswith("commit") for job in disk.jobs)
        for layer in disk.layers[:1] if committing else disk.layers:
            for bitmap in layer.bitmaps.values():
                if bitmap.job is None:
                    self.check_bitmap(disk, layer, bitmap)

    def check_bitmap(self, disk, layer, bitmap):
        self.check_dirty(disk, layer, bitmap.name, bytes(bitmap.marks.must), bitmap.name)

    def check_dirty(self, disk, layer, name, must, what):
        """`must` is of now or of before, for guests go on."""
        covered = bytearray(len(must))
        dirty = self.dirty_granules(layer, name, layer is disk.top)
        if dirty is None:
            return
        for at, length in dirty:
            first, end = at // SECTOR, (at + length + SECTOR - 1) // SECTOR
            covered[first:end] = b"\1" * (end - first)
        missing = [sector for sector, (a, b) in enumerate(zip(must, covered)) if a and not b]
        if missing:
            raise Wrong(f"bitmap {what} of {layer.path.name} ({disk.name}) misses {len(missing)} sectors: {missing[:8]}")

    # Rest

    def tend_jobs(self):
        """Those that have come to an end are told, and forgotten."""
        for entry in self.qmp("query-jobs"):
            job = self.jobs[entry["id"]]
            if entry["status"] == "pending":
                with contextlib.suppress(QmpError):      # another of its group has taken it along
                    self.qmp("job-finalize", id=job.id)
            elif entry["status"] == "concluded":
                self.qmp("job-dismiss", id=job.id)
                self.end_job(job, entry.get("error"))
        self.daemon.monitor.events.clear()

    def end_job(self, job, error):
        del self.jobs[job.id]
        for disk in job.disks:
            disk.jobs.remove(job)
        self.note(f"== job {job.id} ({job.kind}) has ended: {error or 'well'}")
        may_fail = job.may_fail or any(disk.fails for disk in job.disks)     # a layer with errors may have come on top since
        if error and not job.cancelled and not may_fail:
            raise Wrong(f"job {job.id} ({job.kind}) failed: {error}")
        job.ended(job, error is None)
        self.sweep()

    def add_job(self, job):
        fails = any(layer.fails for layer in job.layers) or any(disk.fails for disk in job.disks)
        job.may_fail = job.may_fail or fails
        self.jobs[job.id] = job
        for disk in job.disks:
            disk.jobs.append(job)

    def group_jobs(self, names):
        """One that fails ends the others of its group, too."""
        fails = any(self.jobs[name].may_fail for name in names)
        for name in names:
            self.jobs[name].note["group"] = names
            self.jobs[name].may_fail |= fails

    def end_jobs(self):
        """Without limits, none paused; those that are ready end one way or another."""
        begun = self.clock.now
        while self.jobs:
            for entry in self.qmp("query-block-jobs"):
                job = self.jobs[entry["device"]]
                if entry["status"] in ("concluded", "null", "aborting", "waiting", "pending"):
                    continue
                with contextlib.suppress(QmpError):    # it may be over by now
                    if entry["speed"]:
                        self.qmp("block-job-set-speed", device=job.id, speed=0)
                    if entry["status"] in ("paused", "standby"):
                        self.qmp("job-resume", id=job.id)
                if entry["status"] == "ready" and not job.completing:
                    self.end_ready_job(job)
            self.tend_jobs()
            self.check_alive()
            if self.clock.now - begun > self.patience * 3:
                raise Wrong(f"jobs do not end: {self.qmp('query-block-jobs')}")
            time.sleep(0.01)

    def end_ready_job(self, job):
        """The disk's users go over to the target, or it is left as it is at that moment."""
        job.completing = True
        job.point = job.point or job.disks[0].model.open_point()
        if self.rng.random() < 0.6:
            job.note["pivot"] = True
            job.disks[0].model.may_fail |= job.may_fail
            self.qmp("job-complete", id=job.id)
        else:
            self.qmp("block-job-cancel", device=job.id)

    def sweep(self):
        """Nodes and files of layers that are in no chain any more, and in no job."""
        if any(layer in job.layers for layer in self.retired for job in self.jobs.values()):
            return                                       # it may stand on any of the others
        gone, self.retired = self.retired, []
        for what in (self.detach, self.check_image, self.unlink):        # one may stand on another
            for layer in gone:
                what(layer)

    def unlink(self, layer):
        layer.path.unlink(missing_ok=True)
        self.path(layer.path.name + ".tidemark").unlink(missing_ok=True)

    def check_image(self, layer):
        """A file that nobody writes to: clean, and what it should be."""
        if layer.format == "qcow2":
            done = self.run("qemu-img", "check", *(["-U"] if layer.shared else []), layer.path, ok=None)
            if not (layer.leaky and layer.lazy) and done.returncode not in ((0, 3) if layer.leaky else (0,)):
                raise Wrong(f"qemu-img check {layer.path.name}: status {done.returncode}\n{done.stdout}{done.stderr}")
        if layer.content is not None:
            tell(states_of(layer.path, layer.format, self), layer.content, f"image {layer.path.name}, by itself")
        for name, states in layer.snapshots.items():
            if states is None:
                continue
            found = states_of(layer.path, layer.format, self, ("-l", f"snapshot.name={name}"))
            size = min(len(found), len(states))  # qemu-img shows the image's present size
            tell(found[:size], states[:size], f"snapshot {name} of {layer.path.name}")

    def rest(self):
        """Nothing is under way: everything is as it should be."""
        self.end_jobs()
        for disk in self.disks:
            disk.guest.hold()
        self.check_alive()
        self.check_graph()
        for disk in self.disks:
            disk.model.may_fail = disk.fails
            disk.model.check_now(disk.read(), f"{disk.name}, at rest")
            self.check_bitmaps(disk)
            check_checkpoints(self, disk)
        self.check_leftovers()

    def check_leftovers(self):
        """No node and no export that nobody has asked for; no job."""
        wanted = {layer.node for disk in self.disks for layer in disk.layers}
        wanted |= {node for disk in self.disks for node, _ in disk.filters}
        nodes = {name: node["drv"] for name, node in self.nodes().items()}
        left = {name for name, driver in nodes.items() if name not in wanted and driver not in ("file", *FAULTS)}
        if left or wanted - set(nodes):
            raise Wrong(f"nodes that should not be there: {sorted(left)}; that should: {sorted(wanted - set(nodes))}")
        files = sum(driver == "file" for driver in nodes.values())
        layers = sum(len(disk.layers) for disk in self.disks)
        if files != layers:
            raise Wrong(f"{files} nodes of files for {layers} images: {nodes}")
        exports = sorted(export["id"] for export in self.qmp("query-block-exports"))
        if exports != sorted(disk.name for disk in self.disks):
            raise Wrong(f"exports at rest: {exports}")
        if jobs := self.qmp("query-jobs"):
            raise Wrong(f"jobs at rest: {jobs}")

    # Ends

    def check_files(self):
        """The daemon is gone: images, and no file but them."""
        wanted = {"transcript.log", "daemon.log", SCRATCH}
        for disk in self.disks:
            for layer in disk.layers:
                wanted |= {layer.path.name, *(bitmap.base.name for bitmap in layer.bitmaps.values() if bitmap.base)}
                self.check_image(layer)
                if layer.bitmaps or disk.had_checkpoints:
                    wanted.add(layer.path.name + ".tidemark")
        left = {path.name for path in self.lab.path.iterdir() if not path.name.endswith(".sock")} - wanted
        left = {name for name in left if not name.startswith("backup")}
        if left:
            raise Wrong(f"files that should not be there: {sorted(left)}")
        if found := list(self.path(SCRATCH).iterdir()):
            raise Wrong(f"scratch files are left: {found}")

    def stop(self, by_signal):
        """In order, under load, now and then with jobs; then the files are looked at."""
        if self.rng.random() < 0.7:
            self.end_jobs()
        self.daemon.quit(by_signal)
        self.end_guests()
        self.resolve_jobs()
        for disk in self.disks:
            if disk.fails:                       # at its end, too
                disk.model.crashed()
            disk.model.everything_is_durable()
            tell(states_of(disk.top.path, disk.top.format, self), disk.model.states, f"{disk.name}, after the daemon's end")
        self.sweep()
        self.check_files()

    def crash(self):
        """kill -9, at any moment."""
        self.daemon.kill()
        self.end_guests()
        for layer in [layer for disk in self.disks for layer in disk.layers] + [layer for job in self.jobs.values() for layer in job.layers]:
            layer.leaky = True
        for clone in self.clones:
            clone.layer.leaky = True
            clone.model.crashed()
        for disk in self.disks:
            disk.crashed = True
            disk.model.crashed()
        self.resolve_jobs()
        self.sweep()
        for disk in self.disks:
            for layer in disk.layers:
                self.check_image(layer)

    def end_guests(self):
        """The daemon is gone, and with it all that is not in files."""
        self.alive = False
        self.groups = {}
        for layer in self.retired + [layer for job in self.jobs.values() for layer in job.layers]:
            layer.owned = False
        for clone in self.clones:
            clone.layer.owned = False
            clone.stop_guest()
        for disk in self.disks:
            disk.stop_guest()
            disk.filters = []
            for layer in disk.layers:
                layer.owned = False
                for bitmap in [bitmap for bitmap in layer.bitmaps.values() if not bitmap.persistent]:
                    disk.forget_bitmap(layer, bitmap.name)
            for checkpoint in [checkpoint for checkpoint in disk.checkpoints if not checkpoint.persistent]:
                disk.forget_checkpoint(checkpoint)

    def resolve_jobs(self):
        """The daemon is gone: what became of its jobs is in the images' headers."""
        for job in list(self.jobs.values()):
            del self.jobs[job.id]
            for disk in job.disks:
                disk.jobs.remove(job)
            if unknown := job.note.get("unknown"):
                unknown()
            job.ended(job, job.changes_chain and self.took_effect(job))
            self.note(f"== job {job.id} was cut off; {job.disks[0].name} is {job.disks[0].chain_files()}")
        for disk in self.disks:
            found = self.chain_on_disk(disk)
            if found != disk.chain_files():
                raise Wrong(f"the images of {disk.name} name {found} instead of {disk.chain_files()}")

    def took_effect(self, job):
        disk = job.disks[0]
        if job.kind not in ("mirror", "commit-active") or job.note.get("how") == "keep":
            return self.chain_on_disk(disk) != disk.chain_files()
        if not job.note.get("pivot"):
            return False
        disk.uncertain = True
        try:                                     # its users may have been with the target already
            tell(states_of(disk.top.path, disk.top.format, self), disk.model.states, "the source")
            return False
        except Mismatch:
            return True

    def chain_on_disk(self, disk):
        """What the headers name, from the first image on."""
        found, path = [], disk.top.path
        while path:
            found.append(path.name)
            below = backing_of(path, self)
            path = below and self.path(below)
        return found

    def go_on(self):
        for disk in self.disks:
            disk.guest.go()

    def close(self):
        for disk in self.disks + self.clones:
            if disk.guest:
                disk.guest.abandon()
