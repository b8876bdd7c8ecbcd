"""Compression: networks as short codes."""

from weightspace.compress.pca import PCA as PCA
from weightspace.compress.pca import FittedPCA as FittedPCA
