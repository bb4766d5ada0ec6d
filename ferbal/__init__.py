"""ferbal: class-imbalance and ensembling studies on images, facial expressions first."""

__version__ = "0.1.0"
