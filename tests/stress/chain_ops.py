"""Operations on chains: snapshots, stream, mirror, names in headers."""
from disks import Job, backing_of
from operation import Operation, chain_is_still, few_jobs, idle

LAYERS_MAX, SNAPSHOTS_MAX = 6, 3


# External snapshots

def put_on_top(disk, layer, point):
    disk.top.content = point.states
    disk.layers.insert(0, layer)


def short(world, disk):
    """And none that has errors below it becomes a backing file: headers would name it with these."""
    return chain_is_still(world, disk) and len(disk.layers) < LAYERS_MAX and not disk.top.fault


def overlay_file(world, disk):
    """An overlay that the daemon makes: what blockdev-snapshot-sync is told."""
    layer = world.new_layer("qcow2")
    layer.options = {key: value for key, value in disk.top.options.items() if key == "discard"}
    return layer, {"node_name": disk.top.node, "snapshot_file": str(layer.path), "snapshot_node_name": layer.node}


def snapshot_sync(world, disk):
    layer, arguments = overlay_file(world, disk)
    disk.drop_marks(disk.top)
    with disk.model.point() as point:
        world.qmp("blockdev-snapshot-sync", **arguments)
    put_on_top(disk, layer, point)


def snapshot_node(world, disk):
    layer = world.make_image(disk.model.sectors, backing=disk.top)
    world.with_fault(layer, 0 if disk.checkpoints else 0.4)      # below which they could not be kept
    disk.model.may_fail |= layer.fails
    world.add_node(layer, None)
    disk.drop_marks(disk.top)
    try:
        with disk.model.point() as point:
            world.qmp("blockdev-snapshot", node=disk.top.node, overlay=layer.node)
    except Exception:
        world.retire(layer)
        raise
    put_on_top(disk, layer, point)


def snapshot_all(world, _disk):
    """Several disks in one transaction."""
    disks = [disk for disk in world.disks if not disk.jobs and short(world, disk)]
    made = [overlay_file(world, disk) for disk in disks]
    for disk in disks:
        disk.drop_marks(disk.top)
    points = [disk.model.open_point() for disk in disks]
    try:
        world.transaction(*(("blockdev-snapshot-sync", arguments) for _, arguments in made))
    finally:
        for disk, point in zip(disks, points):
            disk.model.close_point(point)
    for disk, (layer, _), point in zip(disks, made, points):
        put_on_top(disk, layer, point)


def some_are_short(world, _disk):
    return any(not disk.jobs and short(world, disk) for disk in world.disks)


def snapshot_undone(world, disk):
    """A transaction that fails: everything is as it was."""
    layer, arguments = overlay_file(world, disk)
    try:
        world.transaction(("blockdev-snapshot-sync", arguments), ("abort", {}))
    except world.QmpError as error:
        if "abort" not in error.desc:
            raise
    else:
        raise world.Wrong("a transaction with abort has succeeded")
    if layer.path.exists():
        raise world.Wrong(f"{layer.path.name} is left by a transaction that was undone")


# Snapshots inside images

def can_have_snapshots(world, disk):
    return idle(world, disk) and not disk.filters and disk.top.format == "qcow2" and not disk.fails and len(disk.top.snapshots) < SNAPSHOTS_MAX


def snapshot_inside(world, disk):
    name = world.new("inside")
    with disk.model.point() as point:
        world.qmp("blockdev-snapshot-internal-sync", device=disk.top.node, name=name)
    disk.top.snapshots[name] = point.states


def has_snapshots(world, disk):
    return idle(world, disk) and not disk.filters and not disk.fails and bool(disk.top.snapshots)


def delete_inside(world, disk):
    name = world.rng.choice(sorted(disk.top.snapshots))
    world.qmp("blockdev-snapshot-delete-internal-sync", device=disk.top.node, name=name)
    del disk.top.snapshots[name]


# Stream

def has_backing(world, disk):
    return chain_is_still(world, disk) and few_jobs(world, disk) and len(disk.layers) > 1


def some_speed(world):
    return {"speed": world.rng.choice((256 << 10, 1 << 20, 8 << 20))} if world.rng.random() < 0.6 else {}


def job_options(world):
    return {"auto_dismiss": False, "auto_finalize": world.rng.random() < 0.7, **some_speed(world)}


def remove_layers(world, disk, above, below):
    """What was between them is in no chain any more."""
    first = disk.layers.index(above) + 1
    last = disk.layers.index(below) if below else len(disk.layers)
    gone = disk.layers[first:last]
    del disk.layers[first:last]
    for layer in gone:
        world.retire(layer)
    return gone


def stream(world, disk):
    above = world.rng.randrange(len(disk.layers) - 1)
    below = world.rng.randrange(above + 2, len(disk.layers) + 1)
    device, base = disk.layers[above], disk.layers[below] if below < len(disk.layers) else None
    how = {}
    if base:
        how = world.rng.choice(({"base_node": base.node}, {"base": str(base.path)}, {"bottom": disk.layers[below - 1].node}))
    elif world.rng.random() < 0.3:
        how = {"bottom": disk.layers[-1].node}
    name = world.new("stream")
    world.qmp("block-stream", job_id=name, device=device.node, **how, **job_options(world))

    def ended(_job, ok):
        if ok:
            remove_layers(world, disk, device, base)
            device.snapshots = dict.fromkeys(device.snapshots)   # they showed what was below
    world.add_job(Job(name, "stream", [disk], ended, list(disk.layers), changes_chain=True))


# Mirror

def can_be_mirrored(world, disk):
    return idle(world, disk) and few_jobs(world, disk)


def choose_format(world, disk):
    """Below a compress filter it has to be one that compresses."""
    compressed = any(kind == "compress" for _, kind in disk.filters)
    return "qcow2" if compressed else world.rng.choice(("qcow2", "qcow2", "raw"))


def plan_mirror(world, disk):
    """The target, what the daemon is told, and what is to be kept once it has begun."""
    target = world.with_fault(world.make_image(disk.model.sectors, choose_format(world, disk)), 0 if disk.checkpoints else 0.3)
    world.add_node(target, None)
    name = world.new("mirror")
    how = {"on_target_error": world.rng.choice(("report", "stop", "enospc", "ignore"))} if target.fault else {}
    how |= {"copy_mode": world.rng.choice(("background", "write-blocking"))}
    if world.rng.random() < 0.3:
        how["granularity"] = max(65536, 4096 << world.rng.randrange(8))
    replaced = disk.filters and all(kind != "raw" for _, kind in disk.filters) and world.rng.random() < 0.5
    if disk.filters:
        how["replaces"] = disk.top.node if replaced else disk.root
    arguments = {"job_id": name, "device": disk.root, "target": target.node, "sync": "full", **how, **job_options(world)}
    whole = disk.root

    def ended(job, ok):
        if job.point:
            disk.model.close_point(job.point)
        target.content = job.point.states if ok and job.point else None
        if not (ok and job.note.get("pivot")):
            world.retire(target)
            return
        target.content = None
        for layer in disk.layers:
            disk.drop_marks(layer)
            world.retire(layer)
        disk.top.content = job.point.states
        disk.layers = [target]
        if disk.filters and not replaced:
            if disk.named != disk.root:              # what is below a raw node does not go along
                for checkpoint in list(disk.checkpoints):
                    disk.forget_checkpoint(checkpoint)
            for node, _ in disk.filters:
                world.drop_filter(node)
            disk.filters = []

    def begun():
        world.add_job(Job(name, "mirror", [disk], ended, [*disk.layers, target], changes_chain=True, note={"whole": whole}))
    return target, arguments, begun


def mirror(world, disk):
    target, arguments, begun = plan_mirror(world, disk)
    try:
        world.qmp("blockdev-mirror", **arguments)
    except Exception:
        world.retire(target)
        raise
    begun()


def some_can_be_mirrored(world, _disk):
    return len(world.jobs) < 3 and sum(can_be_mirrored(world, disk) for disk in world.disks) > 1


def mirror_all(world, _disk):
    """Several disks at one moment; now and then another action fails, and there is no mirror at all."""
    plans = [plan_mirror(world, disk) for disk in world.disks if can_be_mirrored(world, disk)]
    fails = world.rng.random() < 0.3
    try:
        world.transaction(*(("blockdev-mirror", arguments) for _, arguments, _ in plans), *([("abort", {})] if fails else []))
    except Exception as error:
        for target, _, _ in plans:
            world.retire(target)
        if not (fails and isinstance(error, world.QmpError) and "abort" in error.desc):
            raise
        world.sweep()
        return
    if fails:
        raise world.Wrong("a transaction with abort has succeeded")
    for _, _, begun in plans:
        begun()


# Names

def rename(world, disk):
    layer = world.rng.choice(disk.layers[:-1])
    below = disk.layers[disk.layers.index(layer) + 1].path
    name = world.rng.choice((str(below), below.name))
    world.qmp("change-backing-file", device=disk.root, image_node_name=layer.node, backing_file=name)
    if (found := backing_of(layer.path, world)) != below.name:
        raise world.Wrong(f"{layer.path.name} names {found} instead of {below.name}")


def can_be_renamed(world, disk):
    return idle(world, disk) and len(disk.layers) > 1 and not disk.top.fault


OPERATIONS = [
    Operation("snapshot-sync", 6, short, snapshot_sync),
    Operation("snapshot-node", 5, short, snapshot_node),
    Operation("snapshot-transaction", 2, some_are_short, snapshot_all, per_disk=False),
    Operation("snapshot-undone", 2, short, snapshot_undone),
    Operation("snapshot-internal", 3, can_have_snapshots, snapshot_inside),
    Operation("snapshot-internal-delete", 2, has_snapshots, delete_inside),
    Operation("stream", 8, has_backing, stream),
    Operation("mirror", 7, can_be_mirrored, mirror),
    Operation("mirror-transaction", 3, some_can_be_mirrored, mirror_all, per_disk=False),
    Operation("change-backing-file", 2, can_be_renamed, rename, refused="image file are not in the same chain"),     # below a raw node
]
