"""A run on this machine, in this process or in those that `torchrun` or `accelerate launch` started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnflow_hf.manifest import FILE_NAME, Manifest, part_name, remove_parts
from attnflow_hf.nodes import Node
from attnflow_hf.run_work import RunWork


def run_local(work: RunWork, manifest: Manifest, node: Node, bar: Any) -> Manifest:
    """Make the shards that are not finished, and return the complete manifest.

    Of several processes each makes every `node.size`-th shard and lists its own in a manifest of its own, until
    process 0 writes the one of the folder. So the folder is that of a single process, byte for byte, and what was
    finished counts, however many processes go on with it.

    Args:
        work: What there is to do.
        manifest: What is finished.
        node: Which of how many processes this is.
        bar: Shows the progress; of `tqdm`.

    Raises:
        AttnFlowError: A row could not be explained; finished shards are kept.
        OSError: A file cannot be written.
    """
    name = FILE_NAME if node.size == 1 else part_name(node.rank)
    own = manifest if node.size == 1 else replace(manifest, shards=())
    for number, table, schema in work.tables(manifest):
        if number % node.size == node.rank:
            bar.set_postfix_str(f"shard {number}")
            own = work.write(*work.maker.make(number, table, schema, bar.update), own, name)
    for each in node.gather(own):
        for shard in each.shards:
            manifest = manifest.with_shard(shard)
    complete = replace(manifest, is_complete=True)
    node.agree(lambda: _close(work, complete))  # so that no process reads the folder before it is as it stays
    return complete


def _close(work: RunWork, manifest: Manifest) -> None:
    manifest.save(work.folder)
    remove_parts(work.folder)
