"""A text model small enough to train in a second: sentences made of words of one topic, and which topic that is."""

from pathlib import Path

import numpy as np

WORDS = {
    "sea": ("wave", "ship", "sailor", "harbour", "tide", "anchor", "gull", "salt"),
    "kitchen": ("pan", "oven", "flour", "cook", "spoon", "butter", "recipe", "dish"),
    "sky": ("cloud", "wind", "star", "moon", "rain", "storm", "sun", "bird"),
}
FILLERS = ("the", "a", "and", "near", "with", "under", "old", "new")
LENGTH = 12  # tokens
VOCABULARY = 64


def sentences(count: int, seed: int) -> dict[str, np.ndarray]:
    """Texts [count] of 3 to 14 words, and their topics int64 [count]."""
    rng = np.random.default_rng(seed)
    topics = list(WORDS.values())
    labels = rng.integers(len(topics), size=count)
    texts = []
    for label in labels:
        words = [*rng.choice(topics[label], 2), *rng.choice(FILLERS, rng.integers(1, 13))]
        texts.append(" ".join(rng.permutation(words)).capitalize() + ".")
    return {"text": np.array(texts), "label": labels.astype(np.int64)}


def train() -> dict[str, np.ndarray]:
    return sentences(600, seed=0)


def calibration() -> dict[str, np.ndarray]:
    return sentences(120, seed=1)


def evaluation() -> dict[str, np.ndarray]:
    return sentences(200, seed=2)


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer.json of word pieces for these sentences."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, ".", *FILLERS, *(word for topic in WORDS.values() for word in topic), "##s", "##ing"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
