"""Layouts of public corpora, one file each; `card` reads their cards.

A layout has `prepare(card, root, *, num_workers, progress) -> BuildResult`; one whose corpus can be fetched also has
`fetch(cache_dir, *, card, ...) -> Path`.
"""
