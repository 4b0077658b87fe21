from gnnsoup_hpc.api import Job as Job
from gnnsoup_hpc.api import Run as Run
from gnnsoup_hpc.api import StateSoup as StateSoup
from gnnsoup_hpc.api import Trained as Trained
from gnnsoup_hpc.api import export as export
from gnnsoup_hpc.api import gis as gis
from gnnsoup_hpc.api import greedy_soup as greedy_soup
from gnnsoup_hpc.api import import_checkpoints as import_checkpoints
from gnnsoup_hpc.api import learned_soup as learned_soup
from gnnsoup_hpc.api import load_config as load_config
from gnnsoup_hpc.api import load_soup as load_soup
from gnnsoup_hpc.api import make_soups as make_soups
from gnnsoup_hpc.api import prepare as prepare
from gnnsoup_hpc.api import read_report as read_report
from gnnsoup_hpc.api import recompute_statistics as recompute_statistics
from gnnsoup_hpc.api import train_ingredients as train_ingredients
from gnnsoup_hpc.api import uniform_soup as uniform_soup

__version__: str
