"""An export in; answers over HTTP, a page, and what has changed in what is asked, out."""
