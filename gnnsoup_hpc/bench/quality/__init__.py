"""Time to quality: how soon a soup of a run's trained ingredients is as accurate as GIS's, beside GIS done plainly."""
