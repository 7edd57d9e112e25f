"""Where data come from: one file per kind, found by its name. A file holds a `@config` record and

    read(cfg, context, name) -> {part: Split}   the parts of the source; without parts of its own: {name: Split}
    encode(cfg, splits) -> splits               optional: what is learned (statistics, categories) from `train` alone
"""
