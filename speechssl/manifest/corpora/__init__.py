"""Layouts of public corpora, one file each; `card` reads their cards."""
