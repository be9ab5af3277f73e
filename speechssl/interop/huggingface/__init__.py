"""Hugging Face models."""

from speechssl.interop.huggingface.read import read_huggingface

__all__ = ["read_huggingface"]
