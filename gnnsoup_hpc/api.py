"""What `import gnnsoup_hpc` gives beside its commands: souping of any torch module's states."""

from gnnsoup_hpc.soup.modules import StateSoup, gis, greedy_soup, learned_soup, recompute_statistics, uniform_soup

__all__ = ["StateSoup", "gis", "greedy_soup", "learned_soup", "recompute_statistics", "uniform_soup"]
