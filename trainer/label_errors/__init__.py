"""A training and its images in; which labels are likely to be wrong, as a table and as a page to mend them on, out."""
