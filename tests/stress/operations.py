"""All operations."""
import bitmap_ops
import chain_ops
import graph_ops
import job_ops
import life_ops

OPERATIONS = [operation for part in (chain_ops, job_ops, bitmap_ops, graph_ops, life_ops) for operation in part.OPERATIONS]
