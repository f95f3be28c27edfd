"""What a model said of every example in; how good it is, and how sure one may be of that, out."""
