"""Experiments with language models: recurrent ones from scratch, and pre-trained BERT."""
