"""Pure losses: tensors in, scalar out."""
