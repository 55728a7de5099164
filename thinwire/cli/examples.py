"""What the help of each verb adds to its options: which are the main ones, titled groups of the others, examples.

An option that is named nowhere here is shown under the title `Other options`.
"""

Group = dict[str, tuple[str, ...]]

RECIPE: Group = {
    "Shape of the model": ("model.*",),
    "Sparsity of the weights": (
        *("sparsity", "sparsity-options", "density-rule", "embedding-anneal", "sparse-biases", "floor"),
        *("anneal", "anneal-start", "anneal-stop"),
    ),
    "Optimizer": (
        *("learning-rate", "warmup", "decay", "l0-factor", "beta1", "beta2", "epsilon", "weight-decay", "gradient"),
    ),
    "Starting model and teacher": ("start", "teacher", "distill-weight", "distill-temperature"),
    "Arithmetic": ("precision", "compute", "support-every", "recompute", "parallel"),
    "Measuring and saving": (
        *("validate-every", "validation-tokens", "checkpoint-every", "log-every", "track", "watch.*"),
    ),
}
"""Groups of the options of a training config."""

GROUPS: dict[str, Group] = {
    "train": RECIPE,
    "plan": RECIPE,
    "data": {
        "Mixture of training windows": ("idioms-weight", "stdlib-weight", "folders-weight", "document-start"),
        "Limits": ("tokenizer-bytes", "max-file-bytes", "validation-fraction", "shard-tokens"),
    },
    "bridge": {
        "Ridge regression": ("ridge", "ridge-tokens"),
        "Training": ("batch-size", "bridge-rate", "model-rate", "crossings", "validation-tokens"),
        "Weights of the losses": ("weights.*", "joint-weights.*"),
    },
    "steer": {"Models and task": ("dense", "sparse", "task-file"), "A scan for reads": ("top", "first-point")},
    "transfer": {"Models and task": ("dense", "sparse", "task-file")},
    "generate": {"Sampling": ("tokens", "temperature", "top-k", "top-p", "seed")},
    "monitor": {
        "Models of the bridge": ("dense", "sparse"),
        "Generated text": ("generate", "temperature"),
    },
    "prune": {
        "Many circuits at once": ("workers", "ray", "plot", "ladder"),
        "What is masked": (*("granularity", "ablation", "tied-qk", "frozen-norms", "mask-tokens", "keep", "drop"),),
        "How nodes are ranked": (
            *("method", "steps", "batch-pairs", "trials", "learning-rate", "warmup", "weight-decay", "beta2"),
            *("heaviside-temp", "init-noise-scale", "init-noise-bias", "gradient-clip"),
        ),
        "Pressure towards small circuits": (*("sparsity", "k-coef", "hold", "k-coef-up", "k-coef-down", "restarts"),),
        "Search over these settings": ("search", "sampler", "patience"),
        "Choice of the circuit": ("aim", "calibrated", "cut", "max-logit-scale", "simplify", "finalists"),
        "Data": ("train-pairs", "validation-pairs", "heldout-pairs", "mean-tokens"),
    },
}
"""Titled groups of options, by verb; `model.*` stands for all that begin so."""

MAIN: dict[str, tuple[str, ...]] = {
    "train": ("out", "preset", "config", "steps", "batch-size", "density", "seed", "device", "json"),
    "plan": ("ranks", "device", "rates", "steps", "batch-size", "density", "seed", "json"),
    "data": (*("out", "config", "idioms", "stdlib", "folders", "vocab-size", "tokenizer", "seed", "force", "json"),),
    "bridge": ("tokens", "out", "bridge-steps", "joint-steps", "n-active", "config", "seed", "force", "json"),
    "steer": ("strengths", "reads", "dose", "pairs", "draws", "seed", "out", "plot", "config", "json"),
    "transfer": ("ablation", "pairs", "draws", "seed", "out", "config", "json"),
    "generate": ("prompt", "prompt-file", "samples", "stop", "circuit", "json"),
    "monitor": (*("prompts", "nodes", "circuit", "threshold", "below", "last", "exact", "out", "seed", "json"),),
    "prune": (*("task", "tasks", "task-file", "target-loss", "out", "tokens", "config", "seed", "force", "json"),),
}
"""The options that are shown first, in this order."""

FILE_TEXT = "JSON file of the options below; options on the command line win."

MORE: dict[str, tuple[tuple[str, str, str], ...]] = {
    "train": (
        ("preset", "NAME", "Defaults of the options below: tiny (unless given), tiny_dense, shipped, small, paper."),
        ("config", "FILE", FILE_TEXT),
    ),
    "data": (("config", "FILE", FILE_TEXT),),
    "prune": (("config", "FILE", FILE_TEXT),),
    "verify": (("config", "FILE", FILE_TEXT),),
    "bridge": (("config", "FILE", FILE_TEXT),),
    "steer": (("config", "FILE", FILE_TEXT),),
    "transfer": (("config", "FILE", FILE_TEXT),),
}
"""Options that are read before the others: name, value, text."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "quickstart": (
        "thinwire quickstart",
        "thinwire quickstart --train --steps 500 --out runs/mine",
    ),
    "data": (
        "thinwire data --out runs/mine/tokens",
        "thinwire data --folders src --vocab-size 4096 --out runs/src/tokens",
        "thinwire data --tokenizer python-2x256 --out runs/python-2x256/tokens",
    ),
    "train": (
        "thinwire train runs/mine/tokens --out runs/mine/model",
        "thinwire train runs/mine/tokens -o runs/mine/wide --model.d-model 512",
        "thinwire train runs/mine/tokens --out runs/mine/dense --preset tiny_dense",
    ),
    "plan": (
        "thinwire plan tiny",
        "thinwire plan paper --ranks 8 --device h200 --steps 50000",
    ),
    "tasks list": ("thinwire tasks list", "thinwire tasks list --json"),
    "tasks show": (
        "thinwire tasks show bracket_counting",
        "thinwire tasks show bracket_counting --model python-2x256 --pairs 1",
    ),
    "tasks score": (
        "thinwire tasks score python-2x256",
        "thinwire tasks score runs/mine/model --task bracket_counting set_or_string",
    ),
    "prune": (
        "thinwire prune runs/quickstart/model --task bracket_counting",
        "thinwire prune runs/mine/model --task set_or_string --target-loss 0.1",
        "thinwire prune runs/mine/model --tasks all --workers 2",
    ),
    "verify": (
        "thinwire verify runs/quickstart/circuits/bracket_counting",
        "thinwire verify runs/mine/circuits/set_or_string --pairs 512 --force",
        "thinwire verify runs/mine/circuits/set_or_string --thorough",
    ),
    "bridge": (
        "thinwire bridge runs/dense runs/sparse --tokens runs/tokens --out runs/bridge",
        "thinwire bridge runs/dense runs/sparse --tokens runs/tokens -o runs/b --seed 1",
        "thinwire bridge runs/hf-gpt2 python-2x256 --tokens runs/tokens -o runs/hf",
    ),
    "steer": (
        "thinwire steer runs/bridge/maps runs/quickstart/circuits/set_or_string",
        "thinwire steer runs/b/maps runs/c/circuits/with_as --reads scan --plot p.svg",
        "thinwire steer runs/b/joint runs/b/runs/circuits/var_swap --strengths 0 1",
    ),
    "transfer": (
        "thinwire transfer runs/bridge/maps runs/quickstart --out transfer.json",
        "thinwire transfer runs/bridge/maps runs/quickstart/circuits/set_or_string",
    ),
    "generate": (
        "thinwire generate python-2x256 --prompt 'def add(a, b):'",
        "thinwire generate runs/mine/model --samples 4 --temperature 0.7 --seed 1",
    ),
    "monitor": (
        "thinwire monitor runs/bridge/maps --nodes h_3:17 --prompts prompts.jsonl",
        "thinwire monitor runs/bridge/maps --circuit runs/c --prompts p.jsonl --last",
    ),
    "view": (
        "thinwire view runs/quickstart/circuits/bracket_counting",
        "thinwire view runs/quickstart/circuits/bracket_counting --text",
        "thinwire view runs/mine/model --out report.html",
    ),
    "info": (
        "thinwire info",
        "thinwire info runs/quickstart",
        "thinwire info runs/quickstart/circuits/bracket_counting --json",
    ),
    "doctor": ("thinwire doctor", "thinwire doctor --measure --out rates.json"),
}
"""Commands that parse, by verb."""
