"""Operations on bitmaps, and the incremental backups that go by them.  Only those of the layer that is written to are dealt with;
those below wait until a commit or nobody comes to them."""
from chain_ops import job_options
from disks import Bitmap
from job_ops import backup_options, begin, make_target, track
from operation import Operation, always, few_jobs, idle

BITMAPS_MAX = 4


def stays(disk):
    """No job is about to replace the layer that is written to."""
    return not any(job.completing for job in disk.jobs)


def few_bitmaps(world, disk):
    return stays(disk) and len(disk.top.bitmaps) < BITMAPS_MAX


def new_bitmap(world, disk):
    """What is to be told, and what is to be kept."""
    name, persistent = world.new("bitmap"), world.rng.random() < 0.7 and not disk.top.fault
    granularity = world.rng.choice((4096, 16384, 65536, 65536, 1 << 20))
    arguments = {"node": disk.top.node, "name": name, "granularity": granularity, "persistent": persistent}
    return arguments, lambda: Bitmap(name, disk.model.record(), persistent, granularity)


def add(world, disk):
    arguments, made = new_bitmap(world, disk)
    world.qmp("block-dirty-bitmap-add", **arguments)
    disk.top.bitmaps[arguments["name"]] = made()


def free_bitmaps(disk):
    return sorted(name for name, bitmap in disk.top.bitmaps.items() if bitmap.job is None) if stays(disk) else []


def has_bitmaps(_world, disk):
    return bool(free_bitmaps(disk))


def has_several(_world, disk):
    return len(free_bitmaps(disk)) > 1


def choose(world, disk):
    return disk.top.bitmaps[world.rng.choice(free_bitmaps(disk))]


def remove(world, disk):
    bitmap = choose(world, disk)
    world.qmp("block-dirty-bitmap-remove", node=disk.top.node, name=bitmap.name)
    disk.forget_bitmap(disk.top, bitmap.name)
    world.drop_chain(bitmap)


def clear(world, disk):
    bitmap = choose(world, disk)
    disk.model.forget(bitmap.marks)
    world.qmp("block-dirty-bitmap-clear", node=disk.top.node, name=bitmap.name)
    recording = bitmap.marks.recording
    bitmap.marks = disk.model.record()
    bitmap.marks.recording = recording
    world.drop_chain(bitmap)


def disable(world, disk):
    bitmap = choose(world, disk)
    bitmap.marks.recording = False
    world.qmp("block-dirty-bitmap-disable", node=disk.top.node, name=bitmap.name)
    world.drop_chain(bitmap)


def enable(world, disk):
    bitmap = choose(world, disk)
    world.qmp("block-dirty-bitmap-enable", node=disk.top.node, name=bitmap.name)
    if not bitmap.marks.recording:
        bitmap.marks.recording, bitmap.marks.since = True, disk.model.now()


def merge(world, disk):
    names = free_bitmaps(disk)
    world.rng.shuffle(names)
    target, sources = disk.top.bitmaps[names[0]], [disk.top.bitmaps[name] for name in names[1:3]]
    before = [bytes(source.marks.must) for source in sources]
    world.qmp("block-dirty-bitmap-merge", node=disk.top.node, target=target.name, bitmaps=[source.name for source in sources])
    for must in before:
        target.marks.must = bytearray(a | b for a, b in zip(target.marks.must, must))


def swap(world, disk):
    """In one transaction a new one takes over from one that holds still, as checkpoints are made."""
    old = choose(world, disk)
    arguments, made = new_bitmap(world, disk)
    old.marks.recording = False
    world.transaction(("block-dirty-bitmap-add", arguments), ("block-dirty-bitmap-disable", {"node": disk.top.node, "name": old.name}))
    disk.top.bitmaps[arguments["name"]] = made()
    world.drop_chain(old)


def undone(world, disk):
    """A transaction that fails: no mark is lost."""
    bitmap = choose(world, disk)
    try:
        world.transaction(("block-dirty-bitmap-clear", {"node": disk.top.node, "name": bitmap.name}), ("abort", {}))
    except world.QmpError as error:
        if "abort" not in error.desc:
            raise
    else:
        raise world.Wrong("a transaction with abort has succeeded")
    world.check_bitmap(disk, disk.top, bitmap)


def check(world, disk):
    world.check_bitmaps(disk)


# Chains of backups

def can_begin_chain(world, disk):
    return idle(world, disk) and few_jobs(world, disk) and few_bitmaps(world, disk)


def full_with_bitmap(world, disk):
    """The first of a chain: a backup and a bitmap of the same moment."""
    target, name = make_target(world, disk, format_="qcow2"), world.new("backup")
    world.add_node(target, None)
    arguments, made = new_bitmap(world, disk)
    options = {"job_id": name, "sync": "full", **backup_options(world, disk, target), "device": disk.top.node}
    try:
        with disk.model.point() as point:
            world.transaction(("block-dirty-bitmap-add", arguments), ("blockdev-backup", options))
    except Exception:
        world.retire(target)
        raise
    bitmap = disk.top.bitmaps[arguments["name"]] = made()
    turn = bitmap.turn

    def done(ok):
        if ok and bitmap.turn == turn:
            bitmap.base = target.path
        return ok
    track(world, disk, name, target, point, done)


def bases(disk):
    return sorted(name for name in free_bitmaps(disk) if disk.top.bitmaps[name].base)


def can_go_on(world, disk):
    return idle(world, disk) and few_jobs(world, disk) and bool(bases(disk))


def incremental(world, disk):
    bitmap = disk.top.bitmaps[world.rng.choice(bases(disk))]
    target, name = world.make_image(disk.model.sectors, "qcow2", world.as_layer(bitmap.base), {}, prefix="backup"), world.new("backup")
    world.add_node(target, None)
    mode = world.rng.choice(({"sync": "incremental"}, {"sync": "bitmap", "bitmap_mode": "on-success"},
                             {"sync": "bitmap", "bitmap_mode": "never"}, {"sync": "bitmap", "bitmap_mode": "always"}))
    options = {**backup_options(world, disk, target), "device": disk.top.node, **mode}
    point = begin(world, disk, target, "blockdev-backup", job_id=name, bitmap=bitmap.name, **options)
    bitmap.since = since = disk.model.record()
    bitmap.job = name

    def done(ok):
        bitmap.job = bitmap.since = None
        drops = ok and mode.get("bitmap_mode") != "never"
        if mode.get("bitmap_mode") == "always" and not ok:      # what was copied is dirty no more
            bitmap.marks, since.must = since, since.must
            drops = False
            world.drop_chain(bitmap)
        if drops:
            disk.model.forget(bitmap.marks)
            bitmap.marks = since
        elif bitmap.marks is not since:
            disk.model.forget(since)
        if drops:
            world.drop_chain(bitmap)
            bitmap.base = target.path
        return drops
    track(world, disk, name, target, point, done)
    world.jobs[name].note["unknown"] = lambda: forgive(world, disk, bitmap, since)


def some_can_be_cleared(world, _disk):
    return len(world.jobs) < 3 and any(can_be_cleared(world, disk) for disk in world.disks)


def can_be_cleared(world, disk):
    return not disk.jobs and has_bitmaps(world, disk)


def cleared_together(world, _disk):
    """A group: the bitmaps of several disks begin anew if all backups of the disks succeed, and none otherwise."""
    disks = [disk for disk in world.disks if can_be_cleared(world, disk)]
    actions, parts = [], []
    for disk in disks:
        target, name, bitmap = make_target(world, disk), world.new("backup"), choose(world, disk)
        world.add_node(target, None)
        actions += [("block-dirty-bitmap-clear", {"node": disk.top.node, "name": bitmap.name}),
                    ("blockdev-backup", {"job_id": name, "sync": "full", **backup_options(world, disk, target), "device": disk.top.node})]
        parts.append((disk, target, name, bitmap))
    points = [disk.model.open_point() for disk in disks]
    try:
        world.transaction(*actions, **{"completion-mode": "grouped"})
    except Exception:
        for _, target, _, _ in parts:
            world.retire(target)
        raise
    finally:
        for disk, point in zip(disks, points):
            disk.model.close_point(point)
    for (disk, target, name, bitmap), point in zip(parts, points):
        follow_cleared(world, disk, bitmap, target, name, point)
    world.group_jobs([name for _, _, name, _ in parts])


def follow_cleared(world, disk, bitmap, target, name, point):
    bitmap.since = since = disk.model.record()
    since.recording = bitmap.marks.recording
    bitmap.job = name

    def done(ok):
        bitmap.job = bitmap.since = None
        if ok:
            disk.model.forget(bitmap.marks)
            bitmap.marks = since
            world.drop_chain(bitmap)
        elif bitmap.marks is not since:
            disk.model.forget(since)
        return False
    track(world, disk, name, target, point, done)
    world.jobs[name].note["unknown"] = lambda: forgive(world, disk, bitmap, since)


def forgive(world, disk, bitmap, since):
    """Nobody has heard whether the backup ended well before the daemon did."""
    disk.model.forget(bitmap.marks)
    bitmap.marks, bitmap.job, bitmap.since = since, None, None
    world.drop_chain(bitmap)


OPERATIONS = [
    Operation("bitmap-add", 4, few_bitmaps, add),
    Operation("bitmap-remove", 2, has_bitmaps, remove),
    Operation("bitmap-clear", 2, has_bitmaps, clear),
    Operation("bitmap-disable", 1, has_bitmaps, disable),
    Operation("bitmap-enable", 2, has_bitmaps, enable),
    Operation("bitmap-merge", 2, has_several, merge),
    Operation("bitmap-swap", 2, has_bitmaps, swap),
    Operation("bitmap-undone", 2, has_bitmaps, undone),
    Operation("bitmap-check", 4, always, check),
    Operation("backup-with-bitmap", 5, can_begin_chain, full_with_bitmap),
    Operation("backup-incremental", 9, can_go_on, incremental),
    Operation("backup-group-clear", 4, some_can_be_cleared, cleared_together, per_disk=False),
]
