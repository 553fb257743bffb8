"""Released static networks: how their files are recognised, and the suite's names.

Layouts: EFDN, SAFMNv3 and SPAN as in github.com/Amazingren/NTIRE2025_ESR, CARN-M as in
github.com/nmhkahn/CARN-pytorch.
"""

NTIRE = "NTIRE 2025 efficient SR challenge"
SOURCES = {
    "carn-m": "CARN's own release",
    "efdn": f"{NTIRE}, team 00",
    "safmnv3": f"{NTIRE}, team 19",
    "span": f"{NTIRE}, team 46",
}
# A parameter that no other release has; its first axis is the network's width.
MARKS = {
    "carn-m": "b1.c1.body.0.weight",
    "efdn": "cells.0.conv1.conv1x1.weight",
    "safmnv3": "to_feat.weight",
    "span": "conv_1.eval_conv.weight",
}
RENAMES: dict[str, dict[str, str | None]] = {  # see ``released.RENAMES``
    "carn-m": {
        "sub_mean.shifter.": "sub_mean.",
        "add_mean.shifter.": "add_mean.",
        "b#.b1.": "body.units.#.units.0.",
        "b#.c#.body.": "body.units.#.fuse.#.",
        "c#.body.": "body.fuse.#.",
        "upsample.up2.": None,  # tails for other scales than x4
        "upsample.up3.": None,
        "upsample.up4.body.": "tail.",
    },
    "efdn": {
        "head.": "entry.",
        "local_fuse.": "links.",
        "cells.@.conv#.conv1x1.": "cells.@.layers.#.0.",
        "cells.@.conv#.rep_conv.": "cells.@.layers.#.0.",
        "cells.@.conv#.act.": "cells.@.layers.#.1.",
        "cells.@.branch.": "cells.@.distill.",
        "cells.@.att.conv1.": "cells.@.attention.shrink.",
        "cells.@.att.conv_f.": "cells.@.attention.skip.",
        "cells.@.att.conv2.": "cells.@.attention.down.",
        "cells.@.att.conv_max.": "cells.@.attention.far.0.",
        "cells.@.att.conv3.": "cells.@.attention.far.2.",
        "cells.@.att.conv3_.": "cells.@.attention.far.4.",
        "cells.@.att.conv4.": "cells.@.attention.expand.",
    },
    "safmnv3": {
        "to_feat.": "entry.",
        "to_img.": "tail.",
        "feats.@.conv1.conv1.": "body.@.modulated.",
        "feats.@.conv1.conv2.": "body.@.others.",
        "feats.@.conv1.conv3.": "body.@.mix.",
        "feats.@.conv1.dwconv.": "body.@.depthwise.",
        "feats.@.conv1.out.": "body.@.join.",
        "feats.@.conv2.conv1.": "body.@.mlp.0.",
        "feats.@.conv2.conv2.": "body.@.mlp.2.",
    },
    "span": {
        "conv_1.eval_conv.": "entry.",
        "conv_2.eval_conv.": "last.",
        "conv_cat.": "fuse.",
        "upsampler.": "tail.",
        "block_#.c#_r.eval_conv.": "blocks.#.convolutions.#.",
    },
}
