"""The starter's vocabulary: CLIP's byte-pair tokens, with merges that make each word of the captions one token.

Any text can be told: what is no known word falls into its bytes. The files are those of CLIP's tokenizer, so the ordinary
tokenizers of transformers and ComfyUI read them.
"""

import json
from pathlib import Path

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def build_vocabulary(words: tuple[str, ...]) -> tuple[str, ...]:
    """Words -> merges, "a b" each, in order: every word grows from its first letter to its last, in one way for all."""
    merges: dict[str, None] = {}
    for word in sorted(set(words)):
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        for merge in list(merges):  # what earlier words' merges do to this one
            pieces = _apply(pieces, merge)
        while len(pieces) > 1:
            merges[f"{pieces[0]} {pieces[1]}"] = None
            pieces = _apply(pieces, f"{pieces[0]} {pieces[1]}")
    return tuple(merges)


def tokens(merges: tuple[str, ...]) -> dict[str, int]:
    """Token -> number: bytes, bytes that end a word, merged pieces, start and end."""
    letters = list(_byte_letters().values())
    names = [*letters, *[letter + END_OF_WORD for letter in letters], *["".join(merge.split()) for merge in merges], START, END]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def write_tokenizer(folder: Path, merges: tuple[str, ...], positions: int) -> Path:
    """vocab.json, merges.txt and tokenizer_config.json, as transformers.CLIPTokenizer.from_pretrained reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(tokens(merges), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": positions, "bos_token": START, "eos_token": END,
        "pad_token": END, "unk_token": END, "do_lower_case": True, "errors": "replace",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


def _apply(pieces: list[str], merge: str) -> list[str]:
    first, second = merge.split(" ")
    merged, index = [], 0
    while index < len(pieces):
        if pieces[index] == first and pieces[index + 1 : index + 2] == [second]:
            merged.append(first + second)
            index += 2
        else:
            merged.append(pieces[index])
            index += 1
    return merged


def _byte_letters() -> dict[int, str]:
    """Byte -> the printable letter that stands for it in CLIP's and GPT-2's vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
