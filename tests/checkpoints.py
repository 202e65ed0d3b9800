"""Checkpoints with random weights in the shapes of published ones: `python -m tests.checkpoints hubert-base FOLDER`.

In: a name of NAMES. Out: a folder with config.json, model.safetensors and preprocessor_config.json, as the original is
laid out. The `-base` and `distilhubert` ones have the originals' real sizes; those of TINY have their kernels, strides,
norms and preprocessor settings with a width of 32. Random weights that answer nearly the same to every clip would hide
faults, so the norms are random too, and the head is fitted to tell made-up sounds apart.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import (
    ASTFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

SAMPLE_RATE = 16_000
HEARD_SECONDS = (0.6, 0.9, 1.3, 2.0)

TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
WAVEFORM = {**TRANSFORMER, "conv_dim": (32,) * 7, "classifier_proj_size": 16}
DISTILLED = {  # the distiller drops nothing after its front end and normalises nothing before its projection
    "num_hidden_layers": 2,
    "feat_proj_layer_norm": False,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MELS = 32  # of the tiny AST
AST_FRAMES = 128
WHISPER_SECONDS = 2


def waveform_extractor(do_normalize: bool, return_attention_mask: bool) -> Callable[[], Any]:
    """The preprocessor of a model that eats waveforms."""
    return lambda: Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=SAMPLE_RATE,
        padding_value=0.0,
        do_normalize=do_normalize,
        return_attention_mask=return_attention_mask,
    )


@dataclass(frozen=True)
class Kind:
    """One checkpoint: its configuration's class and what differs from that class's defaults, and its preprocessor."""

    config: str
    extractor: Callable[[], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    headless: str | None = None  # the class it is published as, where that is not the bare encoder


# Group-norm base models are published without attention mask: they were trained on zero-padded batches.
KINDS: dict[str, Kind] = {
    "hubert-base": Kind("HubertConfig", waveform_extractor(True, False)),
    "distilhubert": Kind("HubertConfig", waveform_extractor(False, False), DISTILLED),
    "tiny-hubert": Kind("HubertConfig", waveform_extractor(True, False), WAVEFORM),
    "tiny-distilhubert": Kind("HubertConfig", waveform_extractor(False, False), {**WAVEFORM, **DISTILLED}),
    "tiny-wav2vec2": Kind("Wav2Vec2Config", waveform_extractor(True, False), WAVEFORM),
    "tiny-wav2vec2-large": Kind("Wav2Vec2Config", waveform_extractor(True, True), {**WAVEFORM, **LARGE}),
    "tiny-wavlm": Kind("WavLMConfig", waveform_extractor(False, True), WAVEFORM),
    "tiny-unispeech-sat": Kind("UniSpeechSatConfig", waveform_extractor(False, True), WAVEFORM),
    "tiny-data2vec-audio": Kind("Data2VecAudioConfig", waveform_extractor(True, True), WAVEFORM),
    "tiny-w2v-bert": Kind(
        "Wav2Vec2BertConfig",
        lambda: SeamlessM4TFeatureExtractor(
            feature_size=80, num_mel_bins=80, sampling_rate=SAMPLE_RATE, padding_value=1.0, stride=2
        ),
        {**TRANSFORMER, "classifier_proj_size": 16},
    ),
    "tiny-whisper": Kind(
        "WhisperConfig",
        lambda: WhisperFeatureExtractor(feature_size=80, chunk_length=WHISPER_SECONDS),
        {
            "d_model": 32,
            **{f"{part}_layers": 3 for part in ("encoder", "decoder")},
            **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
            **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
            "max_source_positions": WHISPER_SECONDS * 50,
            "max_target_positions": 8,
            "classifier_proj_size": 16,
            "vocab_size": 64,
            **{f"{token}_token_id": 0 for token in ("pad", "bos", "eos", "decoder_start")},
            "begin_suppress_tokens": None,
        },
        headless="WhisperForConditionalGeneration",
    ),
    "tiny-ast": Kind(
        "ASTConfig",
        lambda: ASTFeatureExtractor(num_mel_bins=MELS, max_length=AST_FRAMES),
        {**TRANSFORMER, "num_mel_bins": MELS, "max_length": AST_FRAMES},
    ),
}
NAMES = tuple(KINDS)
TINY = tuple(name for name in NAMES if name.startswith("tiny-"))


def make(name: str, folder: str | Path, *, labels: int = 2, seed: int = 0, head: bool = True) -> Path:
    """Write a checkpoint with random weights; the same seed gives the same ones. Returns its folder.

    Without `head` it is the encoder alone, as the originals are published. Raises KeyError for a name not in NAMES.
    """
    folder = Path(folder)
    kind = KINDS[name]
    extractor = kind.extractor()
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = _build(kind, labels, head)
        randomise(model)
        if head:
            fit_head(model.eval(), extractor, made_up_sounds(seed))
    finally:
        torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def config_of(name: str, labels: int = 2) -> PreTrainedConfig:
    """The configuration of a checkpoint, without building it."""
    kind = KINDS[name]
    config: PreTrainedConfig = getattr(transformers, kind.config)(**kind.settings, num_labels=labels)
    return config


def _build(kind: Kind, labels: int, head: bool) -> PreTrainedModel:
    config = getattr(transformers, kind.config)(**kind.settings, num_labels=labels)
    if head:
        return AutoModelForAudioClassification.from_config(config)
    if kind.headless:
        model: PreTrainedModel = getattr(transformers, kind.headless)(config)
        return model
    return AutoModel.from_config(config)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give matrices the spread that keeps signals at their size, and norms weights and biases that are felt."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0.0, 0.2)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, module.in_features**-0.5)
        elif isinstance(module, nn.Conv1d | nn.Conv2d) and not is_parametrized(module):
            nn.init.kaiming_normal_(module.weight)


def made_up_sounds(seed: int) -> list[np.ndarray]:
    """Hums, noises and their mixtures of several lengths at SAMPLE_RATE: float32 (samples,) each."""
    random = np.random.default_rng(seed)
    sounds = []
    for number in range(12):
        time = np.arange(round(HEARD_SECONDS[number % len(HEARD_SECONDS)] * SAMPLE_RATE)) / SAMPLE_RATE
        pitch, share = random.uniform(80, 800), random.uniform(0, 1)
        hum = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 6))
        noise = np.convolve(random.normal(0, 1, len(time)), np.ones(number % 4 + 1) / (number % 4 + 1), "same")
        sounds.append((0.2 * (share * hum + (1 - share) * noise)).astype(np.float32))
    return sounds


@torch.no_grad()
def fit_head(model: PreTrainedModel, extractor: Any, sounds: Sequence[np.ndarray], spread: float = 1.0) -> None:
    """Make the last layer tell the sounds apart: each logit has mean 0 and deviation `spread` over them.

    A class's weights are a random mixture of what the layer is given for the sounds, less the mean of these. Such a
    layer looks where sounds differ, as a trained one does; one with random weights would need so large a scale that
    the rounding of bfloat16 changed its answers.
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    given: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    for sound in sounds:
        batch = extractor(sound, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        batch.pop("attention_mask", None)  # a clip alone has nothing to hide, and WavLM warns of every mask
        model(**batch)
    hook.remove()
    features = torch.cat(given)
    centred = features - features.mean(0)
    weight = torch.randn(last.out_features, len(sounds)) @ centred
    weight *= spread / (centred @ weight.T).std(0)[:, None]
    last.weight.copy_(weight)
    last.bias.copy_(-weight @ features.mean(0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.checkpoints", description="Write a random checkpoint.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, default=2, help="classes of the head (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-head", action="store_true", help="the encoder alone, as it is published")
    options = parser.parse_args(arguments)
    print(make(options.name, options.folder, labels=options.labels, seed=options.seed, head=not options.no_head))


if __name__ == "__main__":
    main()
