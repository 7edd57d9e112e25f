"""Benchmarks as their authors published them: one file per format, found by its name. A file holds a `@config` record,

    read(cfg, files) -> {part: records}   with the columns that texts have here: prompt and answer, or text
    VERSIONS = {digest: origin}           optional: the SHA-256 of published files (unpacked) that were read and checked
"""
