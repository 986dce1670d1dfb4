"""Other systems' names for flags and values: of deepspeech.pytorch, of the Ascend scripts around it, and usual ones."""

from collections.abc import Collection

from ds2f.nearest import did_you_mean, nearest

_OUTPUT = ("output_dir", "output", "save_output", "run_dir")  # the first of them that a command has
_MEANT: dict[str, str | tuple[str, ...]] = {
    "lr": "optim.learning_rate",
    "learning_anneal": "optim.learning_anneal",
    "optimizer": "optim.name",
    "optim": "optim.name",
    "scheduler": "optim.schedule",
    "lr_scheduler": "optim.schedule",
    "max_grad_norm": "optim.max_norm",
    "clip_grad": "optim.max_norm",
    "wd": "optim.weight_decay",
    "l2": "optim.weight_decay",
    "adam": "optim.name=adamw",
    "epoch": "training.epochs",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "steps": "training.max_steps",
    "bs": "data.batch_size",
    "train_batch_size": "data.batch_size",
    "workers": "data.num_workers",
    "num_worker": "data.num_workers",
    "train_path": "data.train_manifest",
    "val_path": "data.val_manifest",
    "valid_manifest": "data.val_manifest",
    "test_path": "data.test_manifest",
    "labels": "data.labels_path",
    "no_sorta_grad": "nodata.sort_first_epoch",
    "sorta_grad": "data.sort_first_epoch",
    "sample_rate": "spect.sample_rate",
    "rnn_hidden_size": "model.hidden_size",
    "hidden_layers": "model.hidden_layers",
    "num_layers": "model.hidden_layers",
    "rnn_layers": "model.hidden_layers",
    "rnn": "model.rnn_type",
    "no_bidirectional": "nomodel.bidirectional",
    "speed_volume_perturb": "augmentation.tempo_min",
    "spec_augment": "augmentation.frequency_masks",
    "amp": "apex.opt_level",
    "fp16": "apex.dtype=fp16",
    "bf16": "apex.dtype=bf16",
    "half": "apex.dtype=fp16",
    "precision": "apex.opt_level",
    "static_loss_scale": "apex.loss_scale",
    "save_folder": "run_dir",
    "model_path": "run_dir",
    "checkpoint_path": "run_dir",
    "output": _OUTPUT,
    "output_dir": _OUTPUT,
    "output_file": _OUTPUT,
    "output_path": _OUTPUT,
    "outdir": _OUTPUT,
    "out_dir": _OUTPUT,
    "out": _OUTPUT,
    "logdir": "run_dir",
    "log_dir": "run_dir",
    "save_dir": _OUTPUT,
    "dirpath": "checkpointing.folder",
    "resume": "checkpointing.load_auto_checkpoint",
    "checkpoint": "checkpointing.checkpoint_per_iteration",
    "checkpoint_per_batch": "checkpointing.checkpoint_per_iteration",
    "pretrained": "checkpointing.continue_from",
    "data": "data_path",
    "data_dir": "data_path",
    "data_folder": "data_path",
    "cuda": "device=cuda",
    "gpu": "device=cuda",
    "no_cuda": "device=cpu",
    "cpu": "device=cpu",
    "npu": "device=npu",
    "gpus": "nproc_per_node",
    "num_gpus": "nproc_per_node",
    "devices": "nproc_per_node",
    "world_size": "nproc_per_node",
    "nproc": "nproc_per_node",
    "num_nodes": "nnodes",
    "master_addr": "rdzv_endpoint",
    "dist_url": "rdzv_endpoint",
    "lm": "lm.path",
    "lm_path": "lm.path",
    "alpha": "lm.weight",
    "lm_alpha": "lm.weight",
    "beta": "lm.word_score",
    "lm_beta": "lm.word_score",
    "beam_width": "lm.beam_size",
    "beam": "lm.beam_size",
    "decoder_type": "lm.decoder",
}

_VALUES = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "ascend": "npu",
    "adam": "adamw",
    "cosine_annealing": "cosine",
    "onecycle": "one_cycle",
    "amp": "O1",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "bilstm": "lstm",
}


def meant_value(value: str, choices: Collection[str]) -> str:
    """The values of an enumeration that another may stand for, as the end of a message; empty if none is near.

    >>> meant_value("gpu", ["npu", "cuda", "cpu"]), meant_value("lstn", ["lstm", "gru"])
    ('. Did you mean cuda?', '. Did you mean lstm?')
    """
    other = _VALUES.get(value.lower())
    return f". Did you mean {other}?" if other in choices else did_you_mean(value, choices)


def meant(name: str, known: Collection[str]) -> list[str]:
    """The flags that an unknown flag may stand for, without the leading hyphens.

    Args:
      name: the unknown flag, such as ``batch-size`` or ``training.no_cuda``.
      known: the flags of the command.

    >>> meant("batch-size", ["data.batch_size", "run_dir"]), meant("lr", ["optim.learning_rate"])
    (['data.batch_size'], ['optim.learning_rate'])
    >>> meant("output", ["run_dir", "output_dir"]), meant("output", ["run_dir"])
    (['output_dir'], ['run_dir'])
    >>> meant("batch_szie", ["data.batch_size", "run_dir"])
    ['data.batch_size']
    """
    own = name.lower().replace("-", "_")
    tail = own.rpartition(".")[2]
    same = [flag for flag in known if flag.rpartition(".")[2] in (own, tail)]
    others = next((_MEANT[each] for each in (own, tail) if each in _MEANT), ())
    others = (others,) if isinstance(others, str) else others
    stems = ((other, other.partition("=")[0]) for other in others)
    named = [other for other, flag in stems if flag in known or flag.removeprefix("no") in known]
    return same or named[:1] or _mistyped(own, known)


def _mistyped(name: str, known: Collection[str]) -> list[str]:
    """The flags that are spelt nearly so, with their section or without."""
    whole = nearest(name, known)
    if whole or "." in name:
        return whole
    tails = nearest(name, {flag.rpartition(".")[2] for flag in known})
    return [flag for tail in tails for flag in known if flag.rpartition(".")[2] == tail]
