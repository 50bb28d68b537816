"""A model as transformers' GPT2LMHeadModel wants to find it: configuration and tokenizer settings."""

from collections.abc import Mapping
from typing import Any

from isoflop.data import END_OF_TEXT
from isoflop.recipe.shape import Shape


def end_of_text_ids(end_of_text: int) -> dict[str, Any]:
    """A token that stands between texts both begins and ends them."""
    return {"bos_token_id": end_of_text, "eos_token_id": end_of_text}


def config(shape: Shape, token_ids: Mapping[str, Any], dtype: str = "float32") -> dict[str, Any]:
    """config.json, with the special tokens of `token_ids`, keys and all.

    `gelu` is the exact one; GPT-2's own `gelu_new` is the tanh approximation.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.context_length,
        "n_embd": shape.d_model,
        "n_layer": shape.n_layers,
        "n_head": shape.n_heads,
        "n_inner": shape.d_ff,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": True,
        **token_ids,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,  # what dtype was called before transformers 4.56
    }


def generation_config(end_of_text: int) -> dict[str, Any]:
    """generation_config.json. There is no padding token; naming one keeps `generate` from warning."""
    return {**end_of_text_ids(end_of_text), "pad_token_id": end_of_text}


def tokenizer_config(shape: Shape) -> dict[str, Any]:
    """tokenizer_config.json. The class is the one that reads tokenizer.json as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": shape.context_length,
        "clean_up_tokenization_spaces": False,  # decoding gives the text back, "a ." and all
    }
