"""Operations on nodes and exports: options, sizes, filters, threads; and looking at what is there."""
from disks import states_of
from model import SECTOR
from operation import Operation, always, idle

MiB = 1 << 20


# Looking

def look(world, disk):
    world.check_content(disk)


def second_export(world, disk):
    """Read through another export while the guest writes through its own."""
    name = world.new("reader")
    world.qmp("block-export-add", type="nbd", id=name, node_name=disk.root, name=name)
    try:
        with disk.model.point() as point:
            data = world.read_export(name)
        point.check(data, f"{disk.name} through another export")
    finally:
        world.remove_export(name)


# Filters

def insert(world, disk, driver, **options):
    node = world.new(driver)

    def change():
        world.qmp("blockdev-add", driver=driver, node_name=node, file=disk.root, **options)
        disk.filters.insert(0, (node, driver))
    disk.without_export(change)


def can_be_alone(world, disk):
    """Without an export, for a moment."""
    return idle(world, disk) and disk.stays and not disk.fails


def without(driver):
    def when(world, disk):
        return can_be_alone(world, disk) and all(kind != driver for _, kind in disk.filters) and len(disk.filters) < 3
    return when


def add_throttle(world, disk):
    group = world.new("group")
    world.qmp("object-add", qom_type="throttle-group", id=group, limits={"iops-total": world.rng.choice((200, 1000, 5000))})
    insert(world, disk, "throttle", throttle_group=group)
    world.groups[disk.filters[0][0]] = group


def throttled(world, disk):
    return any(kind == "throttle" for _, kind in disk.filters)


def set_limits(world, disk):
    node = next(node for node, kind in disk.filters if kind == "throttle")
    limits = world.rng.choice(({"iops-total": 100}, {"iops-total": 0, "iops-read": 500, "iops-write": 300}, {"bps-total": 4 * MiB},
                               {"iops-total": 2000, "iops-total-max": 4000, "iops-total-max-length": 2}))
    nothing = {"iops-total": 0, "iops-read": 0, "iops-write": 0, "bps-total": 0, "iops-total-max": 0, "iops-total-max-length": 1}
    world.qmp("qom-set", path=world.groups[node], property="limits", value={**nothing, **limits})


def add_copy_on_read(world, disk):
    insert(world, disk, "copy-on-read")


def qcow2_without(driver):
    def when(world, disk):
        return without(driver)(world, disk) and disk.top.format == "qcow2"
    return when


def add_compress(world, disk):
    """All that guests write becomes compressed clusters."""
    insert(world, disk, "compress")


def add_raw(world, disk):
    insert(world, disk, "raw")


def has_filters(world, disk):
    return idle(world, disk) and bool(disk.filters) and (len(disk.filters) > 1 or disk.top.owned)


def take_off(world, disk):
    """The outermost one."""
    node = disk.filters[0][0]

    def change():
        world.qmp("blockdev-del", node_name=node)
        del disk.filters[0]
        world.drop_group(node)
    disk.without_export(change)


# A moment of the disk, read while it goes on

def fleece(world, disk):
    """Image fleecing: what is overwritten goes to a scratch image, and the moment can be read until the filter goes."""
    scratch = world.make_image(disk.model.sectors, "qcow2", None, {})
    world.add_node(scratch, None)
    node, shown = world.new("cbw"), world.new("snap")
    states = None

    def put():
        nonlocal states
        with disk.model.point() as point:
            world.qmp("blockdev-add", driver="copy-before-write", node_name=node, file=disk.root, target=scratch.node)
        states = point
        disk.filters.insert(0, (node, "copy-before-write"))
    disk.without_export(put)
    world.qmp("blockdev-add", driver="snapshot-access", node_name=shown, file=node)
    world.qmp("block-export-add", type="nbd", id=shown, node_name=shown, name=shown)
    for _ in range(world.rng.randrange(1, 4)):
        states.check(world.read_export(shown), f"the moment of {disk.name} that {shown} shows")
    world.remove_export(shown)
    world.qmp("blockdev-del", node_name=shown)

    def off():
        world.qmp("blockdev-del", node_name=node)
        disk.filters.remove((node, "copy-before-write"))
    disk.without_export(off)
    world.retire(scratch)


def fleece_by_backup(world, disk):
    """The same by a backup that copies nothing but what is overwritten, with the disk as what the scratch image stands on."""
    scratch = world.make_image(disk.model.sectors, "qcow2", None, {})
    world.add_node(scratch, disk.top.node)
    name = world.new("fleecing")
    options = {"compress": True} if world.rng.random() < 0.3 else {}
    try:
        with disk.model.point() as point:
            world.qmp("blockdev-backup", job_id=name, device=disk.top.node, target=scratch.node, sync="none", auto_dismiss=True, **options)
    except Exception:
        world.retire(scratch)
        raise
    world.qmp("block-export-add", type="nbd", id=name, node_name=scratch.node, name=name)
    for _ in range(world.rng.randrange(1, 5)):
        point.check(world.read_export(name), f"the moment of {disk.name} that {name} shows")
    world.remove_export(name)
    world.qmp("job-cancel", id=name)
    world.until(lambda: all(job["id"] != name for job in world.qmp("query-jobs")), f"the end of {name}")
    scratch.shared = True
    world.retire(scratch)


# Options and sizes

def reopen(world, disk):
    """Other options for the layer that is written to."""
    layer, options = disk.top, {"tracking": disk.top.options["tracking"]} if "tracking" in disk.top.options else {}
    options["discard"] = world.rng.choice(("unmap", "ignore"))
    if world.rng.random() < 0.3:
        options["detect-zeroes"] = "on"
    if layer.format == "qcow2":
        if world.rng.random() < 0.3:
            options["pass-discard-request"] = world.rng.random() < 0.5
        if world.rng.random() < 0.3:
            options["discard-no-unref"] = world.rng.random() < 0.5
    before, layer.options = layer.options, options
    backing = disk.layers[1].node if len(disk.layers) > 1 else None
    try:
        world.qmp("blockdev-reopen", options=[layer.describe(backing)])
    except Exception:
        layer.options = before
        raise


def can_be_reopened(world, disk):
    return idle(world, disk) and not disk.top.fault


def grow(world, disk):
    resize(world, disk, disk.model.sectors + world.rng.choice((128, 1024, 2048)))


def can_grow(world, disk):
    return can_be_alone(world, disk) and disk.model.sectors < 3 * world.sectors


def shrink(world, disk):
    resize(world, disk, disk.model.sectors - world.rng.choice((128, 1024, 2048)))


def can_shrink(world, disk):
    return can_be_alone(world, disk) and disk.model.sectors > world.sectors // 2


def resize(world, disk, sectors):
    """Guests that are connected would not hear of it."""
    def change():
        world.qmp("block_resize", node_name=disk.top.node, size=sectors * SECTOR)
        disk.model.resize(sectors)
    disk.without_export(change)


# Threads

def move(world, disk):
    thread = world.rng.choice([None, *world.threads])

    def change():
        world.qmp("x-blockdev-set-iothread", node_name=disk.root, iothread=thread)
        disk.thread = thread
    disk.without_export(change)


def away_and_back(world, disk):
    disk.without_export(lambda: None)


def read_only_for_a_while(world, disk):
    """Nobody writes to it: it is reopened as one that is only read, and back."""
    backing = disk.layers[1].node if len(disk.layers) > 1 else None

    def change():
        with disk.model.point() as point:
            world.qmp("blockdev-reopen", options=[{**disk.top.describe(backing), "read-only": True}])
            name = world.new("reader")
            world.qmp("block-export-add", type="nbd", id=name, node_name=disk.root, name=name)
            data = world.read_export(name)
            world.remove_export(name)
            world.qmp("blockdev-reopen", options=[disk.top.describe(backing)])
        point.check(data, f"{disk.name}, only read")
    disk.without_export(change)


def no_filters(world, disk):
    return can_be_alone(world, disk) and not disk.filters and not disk.top.fault


# What a disk stands on

def stands_on_another(world, disk):
    """A qcow2 image: change-backing-file keeps the format that the header says, and what takes its place is one."""
    return (idle(world, disk) and len(disk.layers) > 1 and disk.layers[1].format == "qcow2" and not disk.top.fault
            and all(kind != "raw" for _, kind in disk.filters))


def change_backing(world, disk):
    """Another image that reads the same takes the place of all that is below the top: a copy, or an empty overlay of that."""
    below = disk.layers[1]
    kept = world.rng.random() < 0.5
    if kept:
        layer = world.make_image(len(states_of(below.path, below.format, world)), backing=below)
        world.add_node(layer, below.node, read_only=True)
    else:
        layer = world.new_layer("qcow2")
        world.run("qemu-img", "convert", "-U", "-f", below.format, "-O", "qcow2", below.path, layer.path)
        world.add_node(layer, None, read_only=True)
    layer.content = below.content
    try:
        world.qmp("blockdev-reopen", options=[disk.top.describe(layer.node)])
    except Exception:
        world.retire(layer)
        raise
    world.qmp("change-backing-file", device=disk.root, image_node_name=disk.top.node, backing_file=str(layer.path))
    if kept:
        disk.layers.insert(1, layer)
        return
    for old in disk.layers[1:]:
        disk.drop_marks(old)
        world.retire(old)
    disk.layers[1:] = [layer]


OPERATIONS = [
    Operation("reopen-backing", 4, stands_on_another, change_backing, refused="which the image itself names|nobody else would have"),
    Operation("look", 6, always, look),
    Operation("second-export", 4, always, second_export),
    Operation("throttle-add", 2, without("throttle"), add_throttle),
    Operation("throttle-limits", 4, throttled, set_limits),
    Operation("copy-on-read-add", 2, qcow2_without("copy-on-read"), add_copy_on_read),
    Operation("compress-add", 2, qcow2_without("compress"), add_compress),
    Operation("raw-add", 1, without("raw"), add_raw),
    Operation("filter-remove", 5, has_filters, take_off),
    Operation("fleece", 3, can_be_alone, fleece),
    Operation("fleece-backup", 4, idle, fleece_by_backup),
    Operation("reopen", 4, can_be_reopened, reopen),
    Operation("reopen-read-only", 2, no_filters, read_only_for_a_while),
    Operation("resize-up", 3, can_grow, grow),
    Operation("resize-down", 2, can_shrink, shrink),
    Operation("iothread", 3, can_be_alone, move),
    Operation("export-again", 2, can_be_alone, away_and_back),
]
