"""What a JAX function does at one step: its dense ops and their roles, sizes, alignments, gradients."""
