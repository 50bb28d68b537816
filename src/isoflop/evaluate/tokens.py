"""The correction for tokenizers: a loss per token compares only after it is spread over the same tokens."""

from pathlib import Path

from isoflop.config import Gpt2Tokenizer
from isoflop.data import load_manifest
from isoflop.data.manifest import TOKENIZER_FILE
from isoflop.data.tokenizer import load_tokenizer, make_tokenizer
from isoflop.evaluate.held_out_texts import read_texts


def tokens_per_gpt2_token(data: Path) -> float:
    """Tokens of the prepared data's tokenizer for each of GPT-2's on the same held-out text, an end of text each.

    A loss in nats per token times this is what it would be per token of GPT-2's (Dey et al. 2023). It is taken over all
    held-out documents, or two million tokens of them.

    Raises:
        WorkError: the data are damaged.
    """
    texts = [text.text for text in read_texts(data)]
    ours = load_tokenizer(data / TOKENIZER_FILE)
    if load_manifest(data).tokenizer.kind == "gpt2" or not texts:
        return 1.0
    gpt2 = make_tokenizer(Gpt2Tokenizer(kind="gpt2"), [])
    counts = [
        sum(len(encoding.ids) + 1 for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))
        for tokenizer in (ours, gpt2)
    ]
    return counts[0] / counts[1]
