"""Commits, of layers below and of the one that is written to; and images beside the disk on what is committed to, which are to read on as they
do (preserve-removed)."""
from chain_ops import job_options, remove_layers
from disks import Clone, Job, backing_of, held_by, states_of
from looking import remove_returned
from model import SECTOR
from operation import Operation, chain_is_still, few_jobs, idle

# Below a raw node; pulled into it can be only what an image holds now.
REFUSED = "not in this backing file chain|Top image file .* not found|has internal snapshots"


def written_into(world, top, base):
    """What the base reads as when a commit has succeeded."""
    if top.content is None:
        return None
    if base.content is None and world.nodes()[base.node]["image"]["virtual-size"] > len(top.content) * SECTOR:
        return None
    return top.content + (base.content or [])[len(top.content):]


def cover_tail(content, top_sectors, above, disk):
    """What is above reads as zeroes behind a shorter top, and the base, which may have something there, becomes what it stands on."""
    if content is None or above is not disk.top and above.content is None:
        return None
    end = disk.model.sectors if above is disk.top else len(above.content)
    return content[:top_sectors] + [0] * (min(end, len(content)) - top_sectors) + content[max(end, top_sectors):]


def mark_difference(base, old_content, content):
    """A bitmap of the base has what the commit has changed."""
    for bitmap in base.bitmaps.values():
        if old_content is None or content is None or not bitmap.marks.recording:
            continue
        for sector, (old, new) in enumerate(zip(old_content, content)):
            if sector < len(bitmap.marks.must) and type(old) is type(new) is int and old != new:
                bitmap.marks.must[sector] = 1


# Images beside the disk

def make_clones(world, disk, base):
    """Other images on a base, with guests of their own, or without."""
    clones = []
    for _ in range(world.rng.choice((0, 1, 1, 2))):
        states = states_of(base.path, base.format, world)
        sectors = max(1024, len(states) + world.rng.choice((0, 0, 128, -128, 1024)))
        layer = world.make_image(sectors, "qcow2", base, prefix="clone")
        world.add_node(layer, base.node)
        clones.append(Clone(world, layer, (states + [0] * sectors)[:sectors], busy=world.rng.random() < 0.7))
    return clones


def end_clones(clones):
    for clone in clones:
        clone.end()


# Commit below the disk

def has_middle(world, disk):
    """And no backup stands on one of its layers, of which the daemon does not know."""
    stood_on = any(layer in job.layers for job in disk.jobs for layer in disk.layers)
    return chain_is_still(world, disk) and few_jobs(world, disk) and len(disk.layers) > 2 and not stood_on


def commit(world, disk):
    first = world.rng.randrange(1, len(disk.layers) - 1)
    last = world.rng.randrange(first + 1, len(disk.layers))
    top, base, above = disk.layers[first], disk.layers[last], disk.layers[first - 1]
    between = disk.layers[first + 1:last]
    how = world.rng.choice(({"top_node": top.node, "base_node": base.node}, {"top": str(top.path), "base": str(base.path)}))
    preserve = world.rng.choice(("off", "off", "on", "full"))
    clones = make_clones(world, disk, base) if preserve != "off" else []
    name, content, base_content = world.new("commit"), written_into(world, top, base), base.content
    try:
        world.qmp("block-commit", job_id=name, device=disk.root, **how, **job_options(world),
                  **({"preserve_removed": preserve} if preserve != "off" else {}))
    except Exception:
        end_clones(clones)
        raise
    top_sectors = len(top.content or [])
    base.content = None
    if preserve == "off":
        for layer in between:
            layer.content = None                 # for good
    for layer in (top, *between):
        layer.snapshots = dict.fromkeys(layer.snapshots)     # which may show what is below

    def ended(_job, ok):
        end_clones(clones)
        if ok:
            base.content = cover_tail(content, top_sectors, above, disk)
            mark_difference(base, base_content, base.content)
            for layer in remove_layers(world, disk, above, base):
                layer.shared = bool(clones)
    world.add_job(Job(name, "commit", [disk], ended, list(disk.layers), changes_chain=True))


# Commit of what guests write to

def could_take_the_top(world, disk):
    """Layers that are not larger than the disk, which would grow."""
    nodes = world.nodes()
    return [layer for layer in disk.layers[1:] if nodes[layer.node]["image"]["virtual-size"] <= disk.size]


def stands_on_something(world, disk):
    return idle(world, disk) and few_jobs(world, disk) and not disk.filters and len(disk.layers) > 1


HOW = {"plain": {}, "keep": {"keep_active": True}, "empty": {"empty_active": True}, "preserve": {"preserve_removed": "full"}}


def commit_active(world, disk):
    """The disk becomes one of the images that it stands on, when it is told to; or it stays on top of that one."""
    bases = could_take_the_top(world, disk)
    if not bases:
        return
    base, name, how = world.rng.choice(bases), world.new("commit"), world.rng.choice(sorted(HOW))
    gone = disk.layers[:disk.layers.index(base)]
    clones = make_clones(world, disk, base) if how == "preserve" else []
    try:
        world.qmp("block-commit", job_id=name, device=disk.root, base_node=base.node, **job_options(world), **HOW[how])
    except Exception:
        end_clones(clones)
        raise
    base_content, base.content = base.content, None
    if how != "preserve":
        for layer in gone[1:]:
            layer.content = None
    for layer in gone:
        layer.snapshots = dict.fromkeys(layer.snapshots)

    def ended(job, ok):
        if job.point:
            disk.model.close_point(job.point)
        end_clones(clones)
        if ok and job.note.get("pivot"):
            ends[how](world, disk, gone, base, base_content, job.point.states)
        elif not world.alive:
            leave_unneeded(world, disk, gone, base)
    world.add_job(Job(name, "commit-active", [disk], ended, list(disk.layers), changes_chain=True, note={"how": how}))


def leave_top(world, disk, gone, base, base_content, states):
    """Guests have gone over to the base."""
    mark_difference(base, base_content, states)
    for layer in gone:
        disk.drop_marks(layer)
        disk.layers.remove(layer)
        layer.shared = True
        world.retire(layer)
    gone[0].content = None
    disk.record_again(base)
    if world.alive:
        remove_returned(world, disk)


def leave_empty_top(world, disk, gone, base, base_content, states):
    leave_top(world, disk, gone, base, base_content, states)
    if held := held_by(gone[0].path, world):
        raise world.Wrong(f"{gone[0].path.name} was to be empty, and holds {held[:4]}")
    if (below := backing_of(gone[0].path, world)) != base.path.name:
        raise world.Wrong(f"{gone[0].path.name} stands on {below} instead of {base.path.name}, which is the disk by now")


def leave_preserved_top(world, disk, gone, base, base_content, states):
    leave_top(world, disk, gone, base, base_content, states)
    gone[0].content = states


def stay_on_top(world, disk, gone, base, base_content, states):
    mark_difference(base, base_content, states)
    remove_layers(world, disk, gone[0], base)
    base.content = states


ends = {"plain": leave_top, "keep": stay_on_top, "empty": leave_empty_top, "preserve": leave_preserved_top}


def leave_unneeded(world, disk, gone, base):
    """Killed right before the pivot: the base, or what is between, may have left the chain already, of which the top is still the first."""
    found = world.chain_on_disk(disk)
    for layer in (*gone[1:], base):
        if layer.path.name not in found:
            disk.layers.remove(layer)
            disk.drop_marks(layer)
            layer.content = None
            world.retire(layer)


OPERATIONS = [
    Operation("commit", 10, has_middle, commit, refused=REFUSED),
    Operation("commit-active", 10, stands_on_something, commit_active, refused=REFUSED),
]
