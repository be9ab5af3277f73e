"""Building blocks: modules and functions on tensors and plain values. Nothing here sees a configuration."""
