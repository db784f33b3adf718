"""What cannot be combined, written out by hand: what each paper compares, against what there is to compare.

Nothing here is read from kdlab, so that a head which asks for too much or too little is found out.
"""

import re

LOGITS = {
    "ctkd", "dist", "dkd", "jsd", "kd", "logit_mse", "mlkd", "nkd", "reverse_kl", "rld", "skew_kl", "soft_ce", "uld",
    "wsld", "wttm",
}  # fmt: skip
"""Losses on predictions alone: any teacher will do."""

BEYOND_LOGITS = {
    "ab": ("preactivations",),  # the sign of a response before its ReLU
    "at": ("stages",),  # attention maps
    "catkd": (
        "classifier",
        "final map (the one whose mean over its positions the classifier reads)",
    ),  # class activation maps: the map before pooling × weights of the classifier
    "cc": ("embedding",),
    "crd": ("embedding",),
    "cwd": ("stages",),
    "fitnet": ("stages",),
    "fsp": ("stages",),  # Gram matrices between neighbouring stages
    "ft": ("stages",),
    "ickd": ("stages",),
    "kdsvd": ("stages",),
    "mgd": ("stages",),
    "nst": ("stages",),
    "ofd": ("preactivations", "normalisations"),  # margins come from the bias and weight of batch normalisation
    "pkt": ("embedding",),
    "reviewkd": ("embedding", "stages", "preactivations"),  # the embedding is its deepest map
    "rkd": ("embedding",),
    "rrd": ("embedding",),
    "sp": ("stages",),
    "srrl": ("embedding", "classifier"),  # the teacher's classifier on the student's features
    "vid": ("stages",),
}
"""What these losses read of a teacher besides its logits, in the order in which messages name it."""

_BLOCKS = "transformer blocks"
_ATTENTION = "attention (seen in scaled_dot_product_attention: build it with attn_implementation=sdpa)"

TRANSFORMERS = {
    "distilbert": (_BLOCKS,),
    "minilm": (_ATTENTION,),
    "minilmv2": (_ATTENTION,),
    "pkd": (_BLOCKS,),
    "tinybert": (_BLOCKS, _ATTENTION),
}
"""What these losses read of both networks, which a convolutional one does not have."""

GRAFTS = {"simkd"}
"""Losses that build the classifier of a trained teacher into the student."""

NO_NETWORK = {"dlb", "ps_kd", "tf_kd"}
"""Modes whose teacher is a set of predictions: of the last mini-batch, of the last epoch, or made up."""

FROZEN_TEACHER = {"offline"}
"""Modes with a teacher that was trained before."""

TRANSFORMER_PAIRS = {
    ("ab", "vit from resnet"): "vit.layers.1 has no preactivation",  # a block ends in a sum, not in an activation
    ("ofd", "vit from resnet"): "vit.layers.1 has no preactivation",
    ("ab", "resnet from vit"): "vit.layers.1 has no preactivation",
    ("ofd", "resnet from vit"): "the teacher's normalisations",  # there is no batch normalisation before a ReLU
    # What reads the map whose mean is the embedding: the classifier of a vit reads its class token.
    ("simkd", "resnet from vit"): "the teacher's final map",
    ("catkd", "resnet from vit"): "the teacher's final map",
    ("catkd", "vit from resnet"): "the learner's final map",
    ("srrl", "vit from resnet"): "the learner's final map",
    ("ab", "vit from vit"): "vit.layers.0 has no preactivation",
    ("ofd", "vit from vit"): "the teacher's normalisations",
    ("simkd", "vit from vit"): "the teacher's final map",
    ("catkd", "vit from vit"): "the learner's final map",
    ("srrl", "vit from vit"): "the learner's final map",
} | {
    (loss, pair): f"the {side}'s {re.escape(TRANSFORMERS[loss][0])}"
    for loss in TRANSFORMERS
    for pair, side in (
        ("narrow from wide", "learner"),
        ("vgg from resnet", "learner"),
        ("resnet from vit", "learner"),
        ("vit from resnet", "teacher"),
    )
}
"""Pairs of networks that a loss cannot compare, and the words that have to say so."""


def refused_in(loss: str, mode: str) -> str | None:
    """How the refusal of a loss in a mode begins after `loss=NAME `; None where the two go together."""
    if loss in TRANSFORMERS:  # SMALL networks are convolutional
        both = (f"{side}'s {what}" for side in ("the learner", "the teacher") for what in TRANSFORMERS[loss])
        return f"needs {' and '.join(both)},"
    if loss in GRAFTS:
        return None if mode in FROZEN_TEACHER else "builds parts of a frozen teacher into the student"
    if loss in LOGITS or mode not in NO_NETWORK:
        return None
    return "needs " + " and ".join(f"the teacher's {what}" for what in BEYOND_LOGITS[loss]) + ","
