"""All operations."""
import bitmap_ops
import chain_ops
import checkpoint_ops
import cli_ops
import commit_ops
import graph_ops
import handover_ops
import job_ops
import life_ops

OPERATIONS = [operation for part in (chain_ops, commit_ops, job_ops, bitmap_ops, checkpoint_ops,
                                         graph_ops, handover_ops, cli_ops, life_ops) for operation in part.OPERATIONS]
