"""A tiny BERT in a folder: random weights under transformers' names, a configuration, and a tokenizer."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from weightspace.models import BERTMaskedWords

WORDS = "a good great fine nice bad poor dull weak film plot cast scene was is the very".split()  # noqa: SIM905
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIZES = {
    "vocabulary": len(VOCABULARY), "width": 16, "layers": 2, "heads": 4, "hidden": 24, "positions": 12,
}  # fmt: skip
CONFIG = {
    "model_type": "bert", "vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 12, "type_vocab_size": 2,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def write(folder: Path, *, prefix: str = "", pooler: bool = False, head: bool = False, scale: float = 10.0) -> Path:
    """Write the folder; weights are larger than BERT's own at the start, so that attention does something."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = BERTMaskedWords(**SIZES).state_dict()
        state = {name: t + 0.2 * torch.randn_like(t) if t.ndim < 2 else t * scale for name, t in state.items()}
        if pooler:
            state |= {"pooler.dense.weight": torch.randn(16, 16), "pooler.dense.bias": torch.randn(16)}
    named: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith("head."):
            named[prefix + name] = tensor
        elif head:
            part = "bias" if name == "head.bias" else name.replace("head.", "transform.")
            named[f"cls.predictions.{part}"] = tensor
    named["embeddings.position_ids"] = torch.arange(12)[None]
    save_file(named, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rules = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    rules.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    ends = [(name, VOCABULARY.index(name)) for name in ("[CLS]", "[SEP]")]
    rules.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)  # pyright: ignore[reportAttributeAccessIssue]
    rules.save(str(folder / "tokenizer.json"))
    return folder


def reviews(count: int = 60, seed: int = 0) -> tuple[list[str], list[str]]:
    """Reviews of a few words, and whether they praise."""
    draw = torch.Generator().manual_seed(seed)
    texts: list[str] = []
    for i in range(count):
        opinions = WORDS[1:5] if i % 2 else WORDS[5:9]
        word = opinions[int(torch.randint(4, (1,), generator=draw))]
        noun = WORDS[9 + int(torch.randint(4, (1,), generator=draw))]
        texts.append(f"the {noun} was {word}" if i % 3 else f"a very {word} {noun}")
    return texts, ["praise" if i % 2 else "blame" for i in range(count)]
