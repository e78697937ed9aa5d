"""What the daemon says of a disk's checkpoints, held against what it should."""


def found_checkpoints(world, disk):
    """(name, parent, whether it records, whether it is persistent, why it is inconsistent) of each, from the oldest on."""
    return [(one["name"], each.get("parent"), each["recording"], each["persistent"], each.get("inconsistent-reason"))
            for one in world.qmp("query-checkpoints") for each in one["disks"] if each["node"] == disk.top.node]


def check_list(world, disk):
    """The disk has those that it should have, and the newest records."""
    names = [checkpoint.name for checkpoint in disk.checkpoints]
    wanted = [(checkpoint.name, parent, checkpoint is disk.checkpoints[-1], checkpoint.persistent, None)
              for checkpoint, parent in zip(disk.checkpoints, [None, *names])]
    if (found := found_checkpoints(world, disk)) != wanted:
        raise world.Wrong(f"checkpoints of {disk.name}: {found} instead of {wanted}")


def check_since(world, disk, checkpoint):
    """What was written since is known: merged into a bitmap, which is looked at."""
    name, must = world.new("since"), bytes(checkpoint.marks.must)
    world.transaction(("block-dirty-bitmap-add", {"node": disk.top.node, "name": name, "granularity": 4096, "disabled": True}),
                      ("block-dirty-bitmap-merge", {"node": disk.top.node, "target": name, "bitmaps": [], "since": checkpoint.name}))
    world.check_dirty(disk, disk.top, name, must, checkpoint.name)
    world.qmp("block-dirty-bitmap-remove", node=disk.top.node, name=name)


def check_checkpoints(world, disk):
    check_list(world, disk)
    for checkpoint in disk.checkpoints:
        check_since(world, disk, checkpoint)


def forget_missing(world, disk):
    """Of a disk that was cut off at a pivot: they may be with the image that it did not become."""
    found = {name for name, *_ in found_checkpoints(world, disk)}
    for checkpoint in [checkpoint for checkpoint in disk.checkpoints if checkpoint.name not in found]:
        disk.forget_checkpoint(checkpoint)


def remove_returned(world, disk):
    """Deleted while the image that they were taken of was below, which nobody knows any more after a restart: they are there again when
    a commit makes that image the disk, and do no harm."""
    names = {checkpoint.name for checkpoint in disk.checkpoints}
    for name, *_ in found_checkpoints(world, disk):
        if name in disk.deleted_checkpoints and name not in names:
            world.qmp("checkpoint-delete", name=name, disks=[disk.top.node])


def forget_inconsistent(world, disk, persistent_too):
    """Those that have not recorded while the image was away, which is known; deleted, they do no harm."""
    for name, _, _, persistent, why in found_checkpoints(world, disk):
        if why and persistent and not persistent_too:
            raise world.Wrong(f"checkpoint {name} of {disk.name}: {why}")
        if why:
            world.qmp("checkpoint-delete", name=name, disks=[disk.top.node])
            disk.forget_checkpoint(next(checkpoint for checkpoint in disk.checkpoints if checkpoint.name == name))
    check_list(world, disk)
