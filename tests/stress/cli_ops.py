"""What the command line does with a daemon's disks: snapshots, shorter chains, copies; now and then it is killed (kill -9) while it does, which
must leave the disk as it is, on a chain of images that the daemon tells of."""
import subprocess

from chain_ops import LAYERS_MAX
from commit_ops import mark_difference
from disks import Layer, states_of
from looking import remove_returned
from model import SECTOR, tell
from operation import Operation, idle

KILLED = -9


def can_be_told(world, disk):
    """By its export's name, which is that of its image's node at the time."""
    return idle(world, disk) and not world.jobs and not disk.filters and not disk.top.fault


def can_be_longer(world, disk):
    return can_be_told(world, disk) and len(disk.layers) < LAYERS_MAX


def can_be_taken_from(world, disk):
    """Its internal snapshots read from what is below, too."""
    return can_be_told(world, disk) and not disk.top.snapshots


def has_one_below(world, disk):
    return can_be_taken_from(world, disk) and len(disk.layers) > 1


def has_two_below(world, disk):
    return can_be_taken_from(world, disk) and len(disk.layers) > 2


def told(world, disk, *words, may_be_killed=True):
    """Runs the command while guests go on: (whether it has ended well, what the disk held meanwhile, its images now)."""
    program, after = world.program.parent / "tidemark", None
    if may_be_killed and world.rng.random() < 0.3:
        after = world.rng.choice((0.01, 0.03, 0.1, 0.3))
    environment = {**world.lab.env, "TIDEMARK_QMP": str(world.path("qmp.sock"))}
    with disk.model.point() as point:
        process = world.lab.start(program, *words, stdout=world.daemon.log, stderr=subprocess.PIPE, env=environment)
        try:
            error = process.communicate(timeout=after or 300)[1]
        except subprocess.TimeoutExpired:
            if after is None:
                raise
            process.kill()
            error = process.communicate()[1]
        world.lab.ended(process)
        world.note(f"== {' '.join(map(str, words))}: status {process.returncode} {error}")
        if process.returncode not in (0, KILLED):
            raise world.Wrong(f"tidemark {words}: status {process.returncode}: {error.decode()}")
        if process.returncode:
            end_what_is_left(world)
    return process.returncode == 0, point, layers_now(world, disk)


def end_what_is_left(world):
    """Jobs of a command that was killed go on."""
    def ended():
        jobs = world.qmp("query-jobs")
        for job in jobs:
            try:
                if job["status"] == "concluded":
                    world.qmp("job-dismiss", id=job["id"])
                elif job["status"] not in ("aborting", "null"):
                    world.qmp("job-cancel", id=job["id"])
            except world.QmpError:               # it may be over by now
                pass
        return not jobs
    world.until(ended, "the end of the jobs that a killed command has left")


def layers_now(world, disk):
    nodes = world.nodes()
    node = next(export["node-name"] for export in world.qmp("query-block-exports") if export["id"] == disk.name)
    known = {layer.path.name: layer for layer in disk.layers}
    return [known.get(file) or Layer(name, world.path(file), "qcow2") for name, file in world.chain_of(node, nodes)]


def become(world, disk, layers):
    """Those that are its images from now on; the others are retired."""
    nodes, gone = world.nodes(), [layer for layer in disk.layers if layer not in layers]
    for layer in gone:
        layer.owned = layer.owned and layer.node in nodes        # else the command has removed it
        disk.drop_marks(layer)
        world.retire(layer)
        layer.shared = True
    disk.layers = layers


def expect(world, disk, layers, *possible):
    names, wanted = [layer.path.name for layer in layers], [[layer.path.name for layer in each] for each in possible]
    if names not in wanted:
        raise world.Wrong(f"{disk.name} stands on {names} instead of one of {wanted}")


# Snapshots

def snapshot(world, disk):
    path = world.path(f"{world.new('image')}.qcow2")
    disk.drop_marks(disk.top)                    # of what is written while the command runs nobody knows what it goes to
    done, point, layers = told(world, disk, "snapshot", "create", f"{disk.name}={path}")
    if layers[0] is disk.top:
        disk.record_again(disk.top)
        if done:
            raise world.Wrong(f"{disk.name} has no snapshot after tidemark snapshot create")
        path.unlink(missing_ok=True)
        return
    expect(world, disk, layers, [layers[0], *disk.layers])
    disk.top.content = point.states
    disk.layers = layers


# Shorter chains

def rebase(world, disk):
    """On one further down, or on nothing."""
    at = world.rng.randrange(2, len(disk.layers) + 1)
    below = disk.layers[at:]
    done, _, layers = told(world, disk, "chain", "rebase", disk.name, str(below[0].path) if below else "")
    shorter = [disk.top, *below]
    expect(world, disk, layers, shorter, *([] if done else [disk.layers]))
    become(world, disk, layers)


def commit_top(world, disk):
    """The base is the disk then, and what was the top shows it."""
    base, top = disk.layers[1], disk.top
    if states_sectors(world, base) > disk.model.sectors:
        return
    base_content, base.content = base.content, None
    done, point, layers = told(world, disk, "chain", "commit", disk.name, "0")
    expect(world, disk, layers, disk.layers[1:], *([] if done else [disk.layers]))
    if layers[0] is top:
        return
    mark_difference(base, base_content, point.states)
    top.content = None
    become(world, disk, layers)
    disk.record_again(base)
    remove_returned(world, disk)


def states_sectors(world, layer):
    return world.nodes()[layer.node]["image"]["virtual-size"] // SECTOR


# Copies

def chain_copy(world, disk):
    file, goes = world.path(f"{world.new('image')}.qcow2"), world.rng.random() < 0.5
    done, point, layers = told(world, disk, "chain", "copy", disk.name, str(file), "--format", "qcow2", *(["--pivot"] if goes else []))
    if layers[0] is disk.top:
        expect(world, disk, layers, disk.layers)
        if done and goes:
            raise world.Wrong(f"{disk.name} did not go over to {file.name}")
        if done:
            tell(states_of(file, "qcow2", world), point.states, f"the copy {file.name} of {disk.name}")
        remove_copies(world, file)
        return
    expect(world, disk, layers, [Layer("", file, "qcow2")])
    disk.top.content = point.states
    layers[0].owned = True
    become(world, disk, layers)


def remove_copies(world, file):
    """Also what a killed command has left: a node, and a file under another name."""
    for name, node in world.nodes().items():
        if node["drv"] == "qcow2" and node["file"].rpartition("/")[2].startswith(file.name):
            world.qmp("blockdev-del", node_name=name)
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()


def is_alone(world, disk):
    return can_be_told(world, disk) and len(disk.layers) == 1 and disk.top.owned


def file_copy(world, disk):
    """Of the file, while guests write to an overlay; what a command that was killed has left of that the next one merges."""
    for may_be_killed in (True, False):
        file = world.path(f"{world.new('copied')}.{disk.top.format}")
        done, point, layers = told(world, disk, "copy", disk.top.node, str(file), may_be_killed=may_be_killed)
        if done:
            expect(world, disk, layers, disk.layers)
            tell(states_of(file, disk.top.format, world), point.states, f"the copy {file.name} of {disk.name}")
        for path in file.parent.glob(f"{file.name}*"):
            path.unlink()
        if done:
            return


OPERATIONS = [
    Operation("tidemark-snapshot", 3, can_be_longer, snapshot),
    Operation("tidemark-chain-rebase", 3, has_two_below, rebase),
    Operation("tidemark-chain-commit", 3, has_one_below, commit_top),
    Operation("tidemark-chain-copy", 3, can_be_told, chain_copy),
    Operation("tidemark-copy", 3, is_alone, file_copy),
]
