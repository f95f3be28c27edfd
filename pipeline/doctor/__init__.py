"""What the input costs, stage by stage: a dataset and an experiment's settings in, measurements and one advice out."""
