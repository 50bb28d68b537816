"""How a streamed step is cut, and what streaming moves and holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.recipe.schedule import BatchStage

# A layer stays for the whole group, so its weights travel once for so many tokens: on a CPU with a disk some hundred
# tokens hide the way, on a GPU 5 to 15 thousand do. What layers keep for the backward pass grows with the group.
GROUP_TOKENS = 16_384
GPU_GROUP_TOKENS = 65_536


@dataclass(frozen=True)
class Cut:
    """A system's largest step: `microbatches` of so many `sequences`, in groups of at most `most`.

    With `recompute`, a layer keeps its input alone for its backward pass, and is computed once more. On a GPU it always
    is; there, with `offload` the inputs wait in host memory, and images of the first `staying` layers stay from their
    update to the next one. On a CPU with a store on disk, with `embeddings_stay` the embeddings' weights and state are
    in memory too, so that their update, which every step begins with, waits for no disk.
    """

    sequences: int
    microbatches: int
    most: int
    recompute: bool = False
    offload: bool = False
    staying: int = 0
    embeddings_stay: bool = False

    @property
    def groups(self) -> int:
        """Groups of the step."""
        return -(-self.microbatches // self.most)


def cut_of(
    batch_schedule: Sequence[BatchStage],
    microbatch_sequences: int,
    context_length: int,
    systems: int,
    group_tokens: int,
    recompute: bool,
    offload: bool = False,
    staying: int = 0,
    embeddings_stay: bool = False,
) -> Cut:
    """The cut of the schedule's largest step: a group has at most `group_tokens` tokens, but at least a microbatch."""
    microbatches = max(stage.sequences for stage in batch_schedule) // microbatch_sequences
    own = -(-microbatches // systems)
    most = max(1, min(own, group_tokens // (microbatch_sequences * context_length)))
    return Cut(microbatch_sequences, own, most, recompute, offload, staying, embeddings_stay)
