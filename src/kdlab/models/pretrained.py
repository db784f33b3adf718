"""Networks that start from given weights: a folder in transformers' layout, `config.json` and safetensors.

Nothing is downloaded, nothing unpickled, and no code of the folder runs: its config names a class of transformers.
Where the default device is meta, and where there is only a config, the network is built without weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from kdlab.core.errors import UsageError
from kdlab.models.extra import extra

_FOLDER = "the path of a folder with config.json and model.safetensors"

_HEADS = ("classifier", "score", "pooler")
"""What a sequence classifier of transformers adds to its body."""


def classifier(
    *,
    path: str | None,
    classes: int,
    vocabulary: int,
    length: int,
    new_classifier: bool = False,
    config: str | None = None,
) -> nn.Module:
    """A sequence classifier of transformers: input_ids and attention_mask [B, L] to logits [B, classes].

    Args:
        path: its folder.
        classes: number of outputs.
        vocabulary: number of token ids.
        length: most tokens of a sample.
        new_classifier: begin a classifier of random weights on the body of whatever model the folder holds.
        config: the text of its config.json instead of a folder; then the weights are random.

    Raises:
        UsageError: where the folder holds no such network, or one that does not fit.
    """
    settings = _settings(path, config)
    kind, made = _kind(settings, path, "SEQUENCE_CLASSIFICATION", "sequence classifier")
    if not new_classifier:
        _refuse_other(settings, kind, path, "a sequence classifier; for a new one on it set new_classifier=true")
        if made.num_labels != classes:
            raise UsageError(
                f"path={path} has {made.num_labels} classes, but the data has {classes}; for a new "
                "classifier on it set new_classifier=true"
            )
    if made.num_labels != classes:
        made.num_labels = classes
    _refuse_unfit(made, path, vocabulary)
    network: Any = _network(kind, made, None if config else path, _HEADS if new_classifier else ())
    _refuse_longer(network, path, length)
    # After it is built: some networks would never train the embedding of this token.
    known = (getattr(made, "pad_token_id", None), getattr(made, "eos_token_id", None), 0)
    network.config.pad_token_id = next(token for token in known if token in range(made.vocab_size))
    network.register_forward_pre_hook(_padded, with_kwargs=True)
    return cast("nn.Module", network)


def causal(*, path: str | None, vocabulary: int, length: int, config: str | None = None) -> nn.Module:
    """A causal language model of transformers: input_ids [B, L], and a mask where some are padding, to
    [B, L, vocabulary].

    Args:
        path: its folder.
        vocabulary: number of token ids.
        length: most tokens of a sample.
        config: the text of its config.json instead of a folder; then the weights are random.

    Raises:
        UsageError: where the folder holds no such network, or one that does not fit.
    """
    settings = _settings(path, config)
    kind, made = _kind(settings, path, "CAUSAL_LM", "causal language model")
    _refuse_other(settings, kind, path, "a causal language model; expected the folder of one")
    _refuse_unfit(made, path, vocabulary)
    network: Any = _network(kind, made, None if config else path)
    _refuse_longer(network, path, length)
    network.generation_config.use_cache = True
    return cast("nn.Module", network)


def portable(network: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a network with those of its folders written into it, so that it can be rebuilt without them."""
    found: dict[str, Any] = {
        key: portable(value) if isinstance(value, Mapping) else value for key, value in network.items()
    }
    if str(found.get("_target_")).rpartition(".")[0] == __name__ and not found.get("config"):
        found["config"] = json.dumps(_settings(found["path"], None))
    return found


def _settings(path: str | None, config: str | None) -> dict[str, Any]:
    """What a config.json says.

    Raises:
        UsageError: where there is none, or loading it would run code.
    """
    folder = Path(path or "")
    if config is None:
        if path is None:
            raise UsageError(f"path is not set; expected {_FOLDER}")
        if not folder.is_dir():
            raise UsageError(f"path={path}: there is no such folder; expected {_FOLDER}")
        if not (folder / "config.json").is_file():
            raise UsageError(f"path={path}: has no config.json; save the model there with save_pretrained")
        if not any(folder.glob("*.safetensors")):
            raise UsageError(f"path={path}: has no safetensors; save the model there with save_pretrained")
        if (folder / "adapter_config.json").is_file():
            raise UsageError(f"path={path}: is an adapter; merge it into its model, and save that")
    try:
        settings = json.loads(config or (folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"path={path}: its config.json is damaged: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"path={path}: its config.json holds no settings")
    for key in ("auto_map", "quantization_config"):
        if key in settings:
            raise UsageError(
                f"path={path}: its config.json has {key}, which would run its own code; save a plain model"
            )
    return settings


def _kind(settings: Mapping[str, Any], path: str | None, task: str, words: str) -> tuple[Any, Any]:
    """The class of transformers for a task, and its config."""
    auto = extra("transformers.models.auto")
    name = settings.get("model_type")
    if not isinstance(name, str) or name not in auto.CONFIG_MAPPING:
        raise UsageError(f"path={path}: transformers knows no model_type {name}")
    try:
        made = auto.CONFIG_MAPPING[name].from_dict(
            {key: value for key, value in settings.items() if key not in ("return_dict", "dtype", "torch_dtype")}
        )
    except Exception as error:  # a config checks itself, each in its own way
        raise UsageError(f"path={path}: its config.json makes no {name}: {error}") from error
    mapping = getattr(auto.modeling_auto, f"MODEL_FOR_{task}_MAPPING")
    if type(made) not in mapping:
        raise UsageError(f"path={path}: transformers has no {words} of model_type {name}")
    made.use_cache = False
    return mapping[type(made)], made


def _refuse_other(settings: Mapping[str, Any], kind: type, path: str | None, words: str) -> None:
    held = settings.get("architectures") or [kind.__name__]
    if kind.__name__ not in held:
        raise UsageError(f"path={path}: holds a {held[0]}, not {words}")


def _refuse_unfit(config: Any, path: str | None, vocabulary: int) -> None:
    if config.vocab_size != vocabulary:
        raise UsageError(
            f"path={path} knows {config.vocab_size} tokens, but the data has {vocabulary}; expected a folder and data "
            "of one tokenizer"
        )


def _refuse_longer(network: Any, path: str | None, length: int) -> None:
    most = getattr(network.config, "max_position_embeddings", None)
    # Where its table of positions has a row for padding, as RoBERTa's, the first token takes the row after it.
    padding = [
        module.padding_idx
        for name, module in network.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    if most is not None and (most := most - max(padding, default=-1) - 1) < length:
        raise UsageError(f"path={path} reads {most} tokens at most; type data.length={most}")


def _network(kind: Any, config: Any, path: str | None, fresh: tuple[str, ...] = ()) -> nn.Module:
    """The network, with the weights of a folder, whose entries `fresh` may be missing or of other shapes."""
    # Named here, since a config may name an attention that would be fetched.
    how = {"attn_implementation": "sdpa" if kind._supports_sdpa else "eager", "dtype": torch.float32}
    if path is None or torch.get_default_device().type == "meta":
        network: nn.Module = kind._from_config(config, **how)
        return network
    try:
        with _quiet():
            network, told = kind.from_pretrained(
                path, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=bool(fresh), **how,
            )  # fmt: skip
    except Exception as error:  # safetensors, transformers and torch each raise their own
        raise UsageError(f"path={path}: its weights cannot be read: {str(error).splitlines()[0]}") from error
    absent = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
    if absent := sorted(name for name in absent if not set(name.split(".")) & set(fresh)):
        raise UsageError(f"path={path}: its weights have no {absent[0]}; expected those of a {kind.__name__}")
    if broken := [name for name, value in network.named_parameters() if not value.isfinite().all()]:
        raise UsageError(f"path={path}: {broken[0]} holds NaN or infinity; expected the weights of a trained network")
    return network.train()


def _padded(network: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Gives empty places the network's own padding id, by which decoders such as GPT find a text's last token."""
    if named.get("input_ids") is not None and (mask := named.get("attention_mask")) is not None:
        named = {**named, "input_ids": named["input_ids"].masked_fill(mask == 0, network.config.pad_token_id)}
    return given, named


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar, and its table of what was not in the folder."""
    logging = extra("transformers.utils.logging")
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
