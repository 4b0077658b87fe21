from gnnsoup_hpc.api import StateSoup as StateSoup
from gnnsoup_hpc.api import Trained as Trained
from gnnsoup_hpc.api import gis as gis
from gnnsoup_hpc.api import greedy_soup as greedy_soup
from gnnsoup_hpc.api import learned_soup as learned_soup
from gnnsoup_hpc.api import load_soup as load_soup
from gnnsoup_hpc.api import read_report as read_report
from gnnsoup_hpc.api import recompute_statistics as recompute_statistics
from gnnsoup_hpc.api import uniform_soup as uniform_soup

__version__: str
