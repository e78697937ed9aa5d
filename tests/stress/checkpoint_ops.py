"""Checkpoints of disks, what was written since each, and backups that go by them.  A checkpoint stays with its disk through all that
becomes of its layers, so it is the disk's here, not a layer's."""
from disks import Checkpoint
from job_ops import backup_options, begin, make_target, track
from looking import check_list, check_since
from operation import Operation, few_jobs, idle

CHECKPOINTS_MAX = 4


def can_have_more(_world, disk):
    return not disk.jobs and len(disk.checkpoints) < CHECKPOINTS_MAX and not disk.top.fault


def some_can_have_more(world, _disk):
    return any(can_have_more(world, disk) for disk in world.disks)


def plan(world, disks):
    """The arguments, and what is to be kept once they have been told."""
    name = world.new("checkpoint")
    last = [disk.checkpoints[-1] for disk in disks if disk.checkpoints]
    persistent = any(each.persistent for each in last) or world.rng.random() < 0.8
    arguments = {"name": name, "disks": [disk.named for disk in disks], "granularity": world.rng.choice((4096, 65536, 1 << 20)),
                 **({} if persistent else {"persistent": False})}

    def made():
        for disk in disks:
            disk.checkpoints.append(Checkpoint(name, disk.model.record(), persistent))
            disk.had_checkpoints = True
    return arguments, made


def create(world, _disk):
    disks = [disk for disk in world.disks if can_have_more(world, disk)]
    disks = world.rng.sample(disks, world.rng.randrange(1, len(disks) + 1))
    arguments, made = plan(world, disks)
    world.qmp("checkpoint-create", **arguments)
    made()
    for disk in disks:
        check_list(world, disk)


def transient_refused(world, disk):
    """One that would be forgotten before the one that relies on it."""
    try:
        world.qmp("checkpoint-create", name=world.new("checkpoint"), disks=[disk.named], persistent=False)
    except world.QmpError as error:
        if "has to be persistent" not in error.desc:
            raise
    else:
        raise world.Wrong("a checkpoint that is not persistent was taken after one that is")


def has_persistent(world, disk):
    return can_have_more(world, disk) and bool(disk.checkpoints) and disk.checkpoints[-1].persistent


def undone(world, _disk):
    """A transaction that fails."""
    disks = [disk for disk in world.disks if can_have_more(world, disk)]
    arguments, _ = plan(world, disks)
    deleted = [{"name": disk.checkpoints[0].name, "disks": [disk.named]} for disk in disks if free(disk) and disk.checkpoints]
    actions = [("checkpoint-create", arguments)] + [("checkpoint-delete", each) for each in deleted]
    try:
        world.transaction(*actions, ("abort", {}))
    except world.QmpError as error:
        if "abort" not in error.desc:
            raise
    else:
        raise world.Wrong("a transaction with abort has succeeded")
    for disk in disks:
        check_list(world, disk)


def free(disk):
    return not any(checkpoint.job for checkpoint in disk.checkpoints)


def has_checkpoints(_world, disk):
    return idle(_world, disk) and bool(disk.checkpoints) and free(disk) and not disk.top.fault


def delete(world, disk):
    checkpoint = world.rng.choice(disk.checkpoints)
    world.qmp("checkpoint-delete", name=checkpoint.name, disks=[disk.named])
    disk.forget_checkpoint(checkpoint)
    check_list(world, disk)


# What is there

def can_be_checked(_world, disk):
    return bool(disk.checkpoints) and not any(job.completing for job in disk.jobs)


def check(world, disk):
    check_list(world, disk)
    check_since(world, disk, world.rng.choice(disk.checkpoints))


# Backups

def can_begin(world, disk):
    return few_jobs(world, disk) and can_have_more(world, disk)


def push(world, disk):
    """A checkpoint and a backup of one moment."""
    target, name = make_target(world, disk, format_="qcow2"), world.new("backup")
    world.add_node(target, None)
    arguments, made = plan(world, [disk])
    options = {"job_id": name, "sync": "full", **backup_options(world, disk, target), "device": disk.named}
    try:
        with disk.model.point() as point:
            world.transaction(("checkpoint-create", arguments), ("blockdev-backup", options))
    except Exception:
        world.retire(target)
        raise
    made()
    checkpoint = disk.checkpoints[-1]

    def done(ok):
        if ok and checkpoint in disk.checkpoints:
            checkpoint.base = target.path
        return ok
    track(world, disk, name, target, point, done)


def bases(disk):
    return [checkpoint for checkpoint in disk.checkpoints if checkpoint.base and not checkpoint.job]


def can_go_on(world, disk):
    return idle(world, disk) and few_jobs(world, disk) and bool(bases(disk)) and not disk.top.fault


def since(world, disk):
    """What was written since a checkpoint, on top of the backup of that moment."""
    checkpoint = world.rng.choice(bases(disk))
    target, name = world.make_image(disk.model.sectors, "qcow2", world.as_layer(checkpoint.base), {}, prefix="backup"), world.new("backup")
    world.with_fault(target, 0.2)
    world.add_node(target, None)
    mode = {"sync": world.rng.choice(("incremental", "bitmap"))}
    options = {**backup_options(world, disk, target), "device": disk.named, **mode}
    point = begin(world, disk, target, "blockdev-backup", job_id=name, since=checkpoint.name, **options)
    checkpoint.job = name

    def done(ok):
        checkpoint.job = None
        return ok
    track(world, disk, name, target, point, done)


OPERATIONS = [
    Operation("checkpoint-create", 4, some_can_have_more, create, per_disk=False),
    Operation("checkpoint-transient", 1, has_persistent, transient_refused),
    Operation("checkpoint-undone", 2, some_can_have_more, undone, per_disk=False),
    Operation("checkpoint-delete", 3, has_checkpoints, delete),
    Operation("checkpoint-check", 4, can_be_checked, check),
    Operation("backup-with-checkpoint", 4, can_begin, push),
    Operation("backup-since", 6, can_go_on, since),
]
