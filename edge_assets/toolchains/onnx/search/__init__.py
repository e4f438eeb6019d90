"""The accuracy-bounded search: which layers suffer, mixed precision, and trials of schemes."""
