"""Images that go over to another program, which writes to them and may be killed, and come back (blockdev-set-active)."""
import time

from daemon import STOPPED_MAX, Daemon
from disks import backing_name_of
from graph_ops import can_be_alone
from guest import Guest
from lab import processes
from looking import check_checkpoints, forget_inconsistent
from operation import Operation


class Tidemark:
    """Another daemon: knows of persistent bitmaps all that this one does, also when it is killed."""
    keeps_bitmaps = True

    def __init__(self, world, disk):
        self._daemon = Daemon(world.lab, world.program, world.clock, world.patience, prefix="other-")
        self._daemon.start()
        self.socket = self._daemon.nbd
        execute, top = self._daemon.monitor.execute, disk.top
        execute("blockdev-add", **top.describe(), **({"active": False} if world.rng.random() < 0.5 else {}))
        execute("block-export-add", type="nbd", id=disk.name, node_name=top.node, name=disk.name, writable=True)

    def end(self):
        self._daemon.quit(by_signal=False)

    def kill(self):
        self._daemon.kill()


class Qemu:
    """Knows of the bitmaps in qcow2 images, unless it is killed."""

    def __init__(self, world, disk):
        self._lab, self.socket, self.keeps_bitmaps = world.lab, "other-nbd.sock", disk.top.format == "qcow2"
        (world.lab.path / self.socket).unlink(missing_ok=True)
        self._process = world.lab.start("qemu-nbd", "-t", "-e", "4", "-k", world.lab.path / self.socket, "-x", disk.name, "-f", disk.top.format,
                                        "--discard=unmap", disk.top.path)
        processes.wait_for_socket(world.lab.path / self.socket, self._process, patience=STOPPED_MAX)

    def end(self):
        self._lab.stop(self._process, patience=STOPPED_MAX)

    def kill(self):
        self.keeps_bitmaps = False
        self._process.kill()
        self._process.wait()
        self._lab.ended(self._process)


def goes_over(world, disk):
    return can_be_alone(world, disk) and not disk.top.fault


def hand_over(world, disk):
    """The guest goes along."""
    named = [backing_name_of(layer.path, world) or "" for layer in disk.layers]
    other = world.rng.choice((Tidemark, Tidemark, Qemu))
    if any(name.startswith("json:") for name in named):          # which only a daemon opens as it is
        other = Tidemark
    disk.guest.leave()
    disk.unexport()
    world.qmp("blockdev-set-active", node_name=disk.root, active=False)
    there, killed = other(world, disk), world.rng.random() < 0.4
    write_there(world, disk, there, killed)
    world.qmp("blockdev-set-active", node_name=disk.root, active=True)
    forget_bitmaps(world, disk, there)
    forget_inconsistent(world, disk, persistent_too=not there.keeps_bitmaps)
    disk.export()
    if killed:
        disk.model.recovered(disk.read(), f"{disk.name}, back after a kill")
    else:
        disk.model.check_now(disk.read(), f"{disk.name}, back")
    world.check_bitmaps(disk)
    check_checkpoints(world, disk)
    disk.guest.go()


def write_there(world, disk, there, killed):
    uri = f"nbd+unix:///{disk.name}?socket={world.path(there.socket)}"
    guest = Guest(f"{disk.name} there", uri, disk.model, world.rng.random(), world.rng.choice((300, 1500)), world.clock, world.patience)
    guest.start()
    try:
        guest.go()
        time.sleep(world.rng.choice((0.05, 0.2, 0.5)))
        if killed:
            there.kill()
            for layer in disk.layers:
                layer.leaky = True
        else:
            guest.hold()
            disk.model.check_now(world.read_export(disk.name, there.socket), f"{disk.name}, with another program")
            if world.rng.random() < 0.5:
                guest.go()                       # it ends under load
            there.end()
    finally:
        guest.stop()
    if guest.error:
        raise guest.error
    if killed:
        disk.model.crashed()
    else:
        disk.model.everything_is_durable()


def forget_bitmaps(world, disk, there):
    """Those that are not persistent have not recorded; those of a program that does not keep them may not have, which is known then."""
    found = {bitmap["name"]: bitmap for bitmap in world.nodes()[disk.top.node].get("dirty-bitmaps", [])}
    for name, bitmap in list(disk.top.bitmaps.items()):
        lost = found[name].get("inconsistent", False)
        if lost == (bitmap.persistent and there.keeps_bitmaps) or not bitmap.persistent and not lost:
            raise world.Wrong(f"bitmap {name} of {disk.name} is {found[name]} after the image was away")
        if lost:
            world.qmp("block-dirty-bitmap-remove", node=disk.top.node, name=name)
            disk.forget_bitmap(disk.top, name)
            world.drop_chain(bitmap)


OPERATIONS = [
    Operation("hand-over", 3, goes_over, hand_over),
]
