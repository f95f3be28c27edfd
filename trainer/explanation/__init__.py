"""A classifier and images in; where in each image the evidence for a class is, and pictures that show it, out."""
