"""One file a command: its arguments in, its exit status out. TensorFlow is imported after they parse."""
