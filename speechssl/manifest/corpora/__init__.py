"""Layouts of public corpora, one file each; `card` reads their cards, `prepare` makes manifests of them.

A layout has `find(card, root, splits) -> Found`, which opens no recording and need not look at splits that nobody asked
for; one whose corpus can be fetched also has `fetch(cache_dir, *, card, ...) -> Path`.
"""
