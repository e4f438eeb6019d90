"""What a user writes of a model, and how it is read: the spec, its preprocessing, its code and its project."""
