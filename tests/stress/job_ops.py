"""Operations on jobs that are under way, and backups."""
from disks import Job, states_of
from model import tell
from operation import Operation, chain_is_still, few_jobs
from chain_ops import job_options


# Backups

def make_target(world, disk, backing=None, format_=None):
    target = world.make_image(disk.model.sectors, format_ or world.rng.choice(("qcow2", "qcow2", "raw")), backing, {}, prefix="backup")
    target.shared = bool(backing)
    return world.with_fault(target, 0.3)


def backup_options(world, disk, target):
    options = {"device": disk.root, "target": target.node, "spill_directory": str(world.path("scratch")), **job_options(world)}
    if target.format == "qcow2" and world.rng.random() < 0.2:
        options["compress"] = True
    if world.rng.random() < 0.2:
        options["staging_memory"] = 4 << 20
    if world.rng.random() < 0.2:
        options["on_staging_full"] = "throttle"
    if target.fault:
        options["on_target_error"] = world.rng.choice(("report", "stop", "enospc", "ignore"))
    return options


def track(world, disk, name, target, point, done=None, kind="backup"):
    """The job's target is what the disk was at the point when it ends well; done(ok) hears of it first."""
    def ended(_job, ok):
        keep = done(ok) if done else False
        target.content = point.states if ok else None
        if keep:
            world.detach(target)
            tell(states_of(target.path, target.format, world), point.states, f"backup {target.path.name} of {disk.name}")
        else:
            world.retire(target)
    world.add_job(Job(name, kind, [disk], ended, [target]))


def can_be_backed_up(world, disk):
    return few_jobs(world, disk) and chain_is_still(world, disk)


def begin(world, disk, layer, command, **options):
    """The point of the moment at which it began."""
    try:
        with disk.model.point() as point:
            world.qmp(command, **options)
        return point
    except Exception:
        world.retire(layer)
        raise


def backup_full(world, disk):
    target, name = make_target(world, disk), world.new("backup")
    world.add_node(target, None)
    options = backup_options(world, disk, target)
    track(world, disk, name, target, begin(world, disk, target, "blockdev-backup", job_id=name, sync="full", **options))


def can_be_backed_up_partly(world, disk):
    return can_be_backed_up(world, disk) and len(disk.layers) > 1


def backup_top(world, disk):
    """On top of what the disk stands on."""
    target, name = make_target(world, disk, disk.layers[1], "qcow2"), world.new("backup")
    below = disk.layers[1]
    world.add_node(target, None)
    options = backup_options(world, disk, target)
    point = begin(world, disk, target, "blockdev-backup", job_id=name, sync="top", **options)
    track(world, disk, name, target, point)
    world.jobs[name].layers.append(below)


def backup_group(world, _disk):
    """All disks at one moment; they end together or each for itself."""
    disks = [disk for disk in world.disks if not disk.jobs]
    mode = world.rng.choice(("individual", "grouped"))
    targets, names = [make_target(world, disk) for disk in disks], [world.new("backup") for _ in disks]
    for target in targets:
        world.add_node(target, None)
    options = [{"job_id": name, "sync": "full", **backup_options(world, disk, target)} for disk, target, name in zip(disks, targets, names)]
    points = [disk.model.open_point() for disk in disks]
    try:
        world.transaction(*(("blockdev-backup", each) for each in options), **{"completion-mode": mode})
    except Exception:
        for target in targets:
            world.retire(target)
        raise
    finally:
        for disk, point in zip(disks, points):
            disk.model.close_point(point)
    for disk, target, name, point in zip(disks, targets, names, points):
        track(world, disk, name, target, point)
    if mode == "grouped":
        world.group_jobs(names)


def some_are_idle(world, _disk):
    return len(world.jobs) < 3 and sum(not disk.jobs for disk in world.disks) > 1


# Verbs

def has_jobs(world, _disk):
    return bool(world.jobs)


def tell_one(world, change):
    """A job may be at its end, or in a state in which it does not take that."""
    job = world.jobs[world.rng.choice(sorted(world.jobs))]
    try:
        change(job)
    except world.QmpError as error:
        if not any(word in error.desc for word in ("not found", "cannot accept", "in state", "not be paused", "not paused", "already paused")):
            raise


def pause(world, _disk):
    tell_one(world, lambda job: world.qmp("job-pause", id=job.id))


def resume(world, _disk):
    tell_one(world, lambda job: world.qmp("job-resume", id=job.id))


def set_speed(world, _disk):
    tell_one(world, lambda job: world.qmp("block-job-set-speed", device=job.id, speed=world.rng.choice((0, 128 << 10, 1 << 20, 64 << 20))))


def cancel(world, _disk):
    def told(job):
        if not job.completing:
            cancel_job(world, job)
    tell_one(world, told)


def cancel_job(world, job):
    for name in job.note.get("group", [job.id]):
        if name in world.jobs:
            world.jobs[name].cancelled = True
    if world.rng.random() < 0.5:
        world.qmp("job-cancel", id=job.id)
    else:
        world.qmp("block-job-cancel", device=job.id, force=True)


def complete(world, _disk):
    ready = [entry["device"] for entry in world.qmp("query-block-jobs") if entry["status"] == "ready"]
    jobs = [world.jobs[name] for name in ready if not world.jobs[name].completing and not world.jobs[name].cancelled]
    if jobs:
        world.end_ready_job(world.rng.choice(jobs))


def some_get_ready(world, _disk):
    return any(job.kind in ("mirror", "commit-active") for job in world.jobs.values())


def modes_can_change(world, _disk):
    return any(job.kind == "mirror" for job in world.jobs.values())


def change_mode(world, _disk):
    name = world.rng.choice([job.id for job in world.jobs.values() if job.kind == "mirror"])
    try:
        world.qmp("block-job-change", id=name, type="mirror", copy_mode=world.rng.choice(("background", "write-blocking")))
    except world.QmpError as error:
        if not any(word in error.desc for word in ("not found", "cannot accept", "in state")):
            raise


OPERATIONS = [
    Operation("backup-full", 5, can_be_backed_up, backup_full),
    Operation("backup-top", 4, can_be_backed_up_partly, backup_top),
    Operation("backup-group", 3, some_are_idle, backup_group, per_disk=False),
    Operation("job-pause", 4, has_jobs, pause, per_disk=False),
    Operation("job-resume", 6, has_jobs, resume, per_disk=False),
    Operation("job-set-speed", 5, has_jobs, set_speed, per_disk=False),
    Operation("job-cancel", 2, has_jobs, cancel, per_disk=False),
    Operation("job-complete", 6, some_get_ready, complete, per_disk=False),
    Operation("block-job-change", 3, modes_can_change, change_mode, per_disk=False),
]
