"""Contrastive training and evaluation of CLIP models."""
